// A `freelunch serve` of our own on a free port of loopback, and clients of it. What does not come to an end says which
// request waits for what, instead of waiting with it.
import { spawn } from "node:child_process";
import * as runner from "node:test";
import OpenAI from "openai";

export const KEY = "suite-key";

/// Far above what a case takes on a loaded machine under a sanitizer; the whole suite has more (tests/CMakeLists.txt).
const CASE_SECONDS = 90;
const START_SECONDS = 90;
const STOP_SECONDS = 60;
const LOG_LINES = 12;

let running;        // the server of this file's cases
let requests = [];  // of the case that runs: { what, begin, state }
let hung;           // the name of a case that did not end: those after it are not tried

const within = async (seconds, promise, describe) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(async () => reject(new Error(`not done after ${seconds} s: ${await describe()}`)), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
};

/// fetch, remembered: a case that hangs names its requests.
async function noted(url, init) {
  const entry = { what: `${init?.method ?? "GET"} ${url} ${String(init?.body ?? "").slice(0, 300)}`, begin: Date.now(), state: "no answer yet" };
  requests.push(entry);
  try {
    const response = await fetch(url, init);
    entry.state = `status ${response.status} after ${Date.now() - entry.begin} ms`;
    return response;
  } catch (error) {
    entry.state = `${error} after ${Date.now() - entry.begin} ms`;
    throw error;
  }
}

async function slots() {
  try {
    const headers = { Authorization: `Bearer ${KEY}` };
    return await (await fetch(`${running.url}/slots`, { headers, signal: AbortSignal.timeout(5000) })).text();
  } catch (error) {
    return `${error}`;
  }
}

const lastLines = () => (running?.log() ?? "").trimEnd().split("\n").slice(-LOG_LINES).join("\n");

const situation = async () => [
  "requests of this case:",
  ...requests.map((r) => `  ${r.what}\n    begun ${Date.now() - r.begin} ms ago: ${r.state}`),
  `slots: ${await slots()}`,
  `the server's last lines:\n${lastLines()}`,
].join("\n");

/// node:test's, with an end.
export const test = (name, body) => runner.test(name, async () => {
  if (hung) {
    throw new Error(`not tried, since "${hung}" did not end`);
  }
  requests = [];
  await within(CASE_SECONDS, (async () => body())(), () => {
    hung = name;
    return situation();
  });
});
export const { before, after } = runner;

/// Starts FREELUNCH_PROGRAM on FREELUNCH_MODEL; resolves when it serves.
export async function startServer(...flags) {
  const process_ = spawn(
    process.env.FREELUNCH_PROGRAM,
    ["serve", "--model", process.env.FREELUNCH_MODEL, "--port", "0", "--alias", "demo,also-demo", "--api-key", KEY, "--parallel", "4",
      "--ctx-size", "8192", "--metrics", ...flags],
    { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const ended = new Promise((resolve) => process_.on("exit", (code, signal) => resolve(code ?? signal)));
  const ready = new Promise((resolve, reject) => {
    process_.on("error", reject);
    ended.then((code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
    process_.stderr.on("data", (bytes) => {
      log += bytes;
      const listening = /listening on (http:\/\/[0-9.:]+)/.exec(log);
      if (listening && log.includes(" ready: ")) {
        resolve(listening[1]);
      }
    });
  });
  const orKill = async (seconds, promise, what) => {
    try {
      return await within(seconds, promise, () => `${what}; its last lines:\n${lastLines()}`);
    } catch (error) {
      process_.kill("SIGKILL");  // else it would keep this process waiting
      throw error;
    }
  };
  running = { url: "", log: () => log };
  const url = await orKill(START_SECONDS, ready, "the server's start");
  running.url = url;
  return {
    url,
    client: (options = {}) => new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0, fetch: noted, ...options }),
    get: (path) => noted(url + path, { headers: { Authorization: `Bearer ${KEY}` } }),
    log: () => log,
    /// Ends it; resolves to the exit code.
    stop: () => {
      process_.kill("SIGTERM");
      return orKill(STOP_SECONDS, ended, "the server's end");
    },
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
