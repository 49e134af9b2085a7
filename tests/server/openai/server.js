// A `freelunch serve` of our own on a free port of loopback, and clients of it.
import { spawn } from "node:child_process";
import OpenAI from "openai";

export const KEY = "suite-key";

/// Starts FREELUNCH_PROGRAM on FREELUNCH_MODEL; resolves when it serves.
export async function startServer(...flags) {
  const process_ = spawn(
    process.env.FREELUNCH_PROGRAM,
    ["serve", "--model", process.env.FREELUNCH_MODEL, "--port", "0", "--alias", "demo,also-demo", "--api-key", KEY, "--parallel", "4",
      "--ctx-size", "8192", "--metrics", ...flags],
    { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const url = await new Promise((resolve, reject) => {
    process_.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
    process_.stderr.on("data", (bytes) => {
      log += bytes;
      const listening = /listening on (http:\/\/[0-9.:]+)/.exec(log);
      if (listening && log.includes(" ready: ")) {
        process_.removeAllListeners("exit");
        resolve(listening[1]);
      }
    });
  });
  return {
    url,
    client: (options = {}) => new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0, ...options }),
    get: (path) => fetch(url + path, { headers: { Authorization: `Bearer ${KEY}` } }),
    log: () => log,
    /// Ends it; resolves to the exit code.
    stop: () => new Promise((resolve) => {
      process_.on("exit", resolve);
      process_.kill("SIGTERM");
    }),
  };
}

export const ask = (content) => [{ role: "user", content }];
export const QUESTION = ask("What is 7 + 5?");
/// Template variables that leave the thought out.
export const NO_THOUGHT = { chat_template_kwargs: { enable_thinking: false } };

export const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string", description: "Name of the city" } }, required: ["city"] },
  },
};

/// All chunks of a stream.
export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
  }
  return chunks;
}

export const textOf = (chunks, field = "content") => chunks.map((c) => c.choices[0]?.delta?.[field] ?? "").join("");

/// Repeats until `check` is true or two seconds have passed.
export async function eventually(check) {
  const end = Date.now() + 2000;
  while (Date.now() < end) {
    if (await check()) {
      return true;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return check();
}
