// What goes wrong: keys, fields, lengths, streams that are left.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { NO_THOUGHT, QUESTION, after, ask, before, eventually, startServer, test } from "./server.js";

let server, openai;
before(async () => { server = await startServer(); openai = server.client(); });
after(async () => { assert.equal(await server.stop(), 0); });

const base = { model: "demo", messages: QUESTION, temperature: 0, ...NO_THOUGHT };
const rejected = (body, kind, text, client = openai) => assert.rejects(client.chat.completions.create({ ...base, ...body }), (error) => {
  assert.ok(error instanceof kind, `${error}`);
  assert.match(error.message, text);
  return true;
});
const busySlots = async () => (await (await server.get("/slots")).json()).filter((slot) => slot.is_processing).length;

test("a wrong key is an AuthenticationError", () =>
  rejected({}, OpenAI.AuthenticationError, /key/i, server.client({ apiKey: "wrong" })));

test("no key is one, too", async () => {
  const response = await fetch(`${server.url}/v1/models`);
  assert.equal(response.status, 401);
});

test("health needs no key", async () => {
  assert.deepEqual(await (await fetch(`${server.url}/health`)).json(), { status: "ok" });
});

for (const [body, field] of [
  [{ temperature: "hot" }, /temperature/],
  [{ top_p: [1] }, /top_p/],
  [{ max_tokens: -5 }, /max_tokens/],
  [{ messages: "hello" }, /messages/],
  [{ messages: [] }, /messages/],
  [{ messages: [{ role: "user" }] }, /content/],
  [{ messages: [{ role: "stranger", content: "x" }] }, /role/],
  [{ n: 1000 }, /\bn\b|n_cmpl/],
  [{ stop: 7 }, /stop/],
  [{ logprobs: "yes" }, /logprobs/],
  [{ top_logprobs: -1, logprobs: true }, /top_logprobs/],
  [{ tools: "hammer" }, /tools/],
  [{ stream: "yes" }, /stream/],
  [{ seed: "x" }, /seed/],
  [{ chat_template_kwargs: { enable_thinking: "yes" } }, /enable_thinking/],
]) {
  test(`a bad field is a BadRequestError that names it: ${JSON.stringify(body).slice(0, 60)}`, () =>
    rejected(body, OpenAI.BadRequestError, field));
}

test("an image is refused until vision is built", () => rejected(
  { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }] }] },
  OpenAI.BadRequestError, /image/));

test("a prompt longer than the context is refused with both counts", async () => {
  await assert.rejects(openai.chat.completions.create({ ...base, messages: ask("word ".repeat(9000)) }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.type, /exceed_context_size_error/);
    assert.ok(error.error.n_prompt_tokens > error.error.n_ctx);
    return true;
  });
});

test("an answer that fills the context ends with length", async () => {
  const answer = await openai.chat.completions.create({ ...base, messages: ask("a ".repeat(900)), ignore_eos: true });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.ok(answer.usage.total_tokens <= 2048);
});

test("malformed JSON is a 400", async () => {
  const response = await fetch(`${server.url}/v1/chat/completions`,
    { method: "POST", headers: { Authorization: "Bearer suite-key" }, body: '{"messages": [' });
  assert.equal(response.status, 400);
  assert.match((await response.json()).error.message, /JSON/i);
});

test("an unknown route is a NotFoundError", async () => {
  await assert.rejects(openai.files.list(), OpenAI.NotFoundError);
});

test("embeddings are refused by name", async () => {
  await assert.rejects(openai.embeddings.create({ model: "demo", input: "x" }), (error) => error.status === 501 || error.status === 404);
});

test("an aborted stream frees its slot", async () => {
  const stream = await openai.chat.completions.create({ ...base, stream: true, ignore_eos: true, max_tokens: 2000 });
  for await (const chunk of stream) {
    assert.ok(chunk);
    break;
  }
  stream.controller.abort();
  assert.ok(await eventually(async () => await busySlots() === 0));
});

test("an aborted request frees its slot", async () => {
  const controller = new AbortController();
  const promise = openai.chat.completions.create({ ...base, ignore_eos: true, max_tokens: 2000 }, { signal: controller.signal });
  setTimeout(() => controller.abort(), 50);
  await promise.then(() => {}, (error) => assert.ok(error instanceof OpenAI.APIUserAbortError));
  assert.ok(await eventually(async () => await busySlots() === 0));
});

test("after all that the server answers", async () => {
  const answer = await openai.chat.completions.create(base);
  assert.equal(answer.choices[0].finish_reason, "stop");
});
