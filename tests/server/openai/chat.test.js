// Chats, streamed and whole: shapes, usage, sampling fields, stops, choices, log-probabilities.
import assert from "node:assert/strict";
import { NO_THOUGHT, QUESTION, after, ask, before, collect, startServer, test, textOf } from "./server.js";

let server, openai;
before(async () => { server = await startServer(); openai = server.client(); });
after(async () => { assert.equal(await server.stop(), 0); });

const base = { model: "demo", messages: QUESTION, temperature: 0, ...NO_THOUGHT };

test("an answer has OpenAI's shape", async () => {
  const answer = await openai.chat.completions.create(base);
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(typeof answer.choices[0].message.content, "string");
  assert.ok(answer.choices[0].message.content.length > 0);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60);
});

test("usage counts add up", async () => {
  const { usage } = await openai.chat.completions.create(base);
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test("usage tells the tokens taken from the cache", async () => {
  const messages = ask("Remember these words: " + "lake stone river cloud ".repeat(60));
  const first = await openai.chat.completions.create({ ...base, messages, max_tokens: 4 });
  const second = await openai.chat.completions.create({ ...base, messages, max_tokens: 4 });
  assert.equal(first.usage.prompt_tokens, second.usage.prompt_tokens);
  assert.ok(second.usage.prompt_tokens_details.cached_tokens >= 64);
  assert.equal(first.choices[0].message.content, second.choices[0].message.content);
});

test("the model field is free, the answer names the model", async () => {
  const answer = await openai.chat.completions.create({ ...base, model: "gpt-4o" });
  assert.equal(typeof answer.model, "string");
  assert.ok(answer.model.length > 0);
});

test("a stream gives the text of the whole answer", async () => {
  const whole = await openai.chat.completions.create(base);
  const chunks = await collect(await openai.chat.completions.create({ ...base, stream: true }));
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.ok(chunks.every((c) => c.object === "chat.completion.chunk" && c.id === chunks[0].id));
  assert.deepEqual(chunks.map((c) => c.choices[0]?.finish_reason ?? null).filter(Boolean), ["stop"]);
});

test("a stream says its usage in a last chunk when asked", async () => {
  const chunks = await collect(await openai.chat.completions.create(
    { ...base, stream: true, stream_options: { include_usage: true } }));
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, last.usage.prompt_tokens + last.usage.completion_tokens);
});

test("a stream keeps its usage to itself when not asked", async () => {
  const chunks = await collect(await openai.chat.completions.create({ ...base, stream: true }));
  assert.ok(chunks.every((c) => c.choices.length === 1));
});

test("the client's stream helper assembles the same message", async () => {
  const helper = openai.chat.completions.stream(base);
  let text = "";
  helper.on("content", (delta) => { text += delta; });
  const final = await helper.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
});

test("max_tokens cuts with finish_reason length", async () => {
  const answer = await openai.chat.completions.create({ ...base, max_tokens: 3, ignore_eos: true });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 3);
});

test("max_completion_tokens counts too", async () => {
  const answer = await openai.chat.completions.create({ ...base, max_completion_tokens: 2, ignore_eos: true });
  assert.equal(answer.usage.completion_tokens, 2);
});

test("a stop string ends the answer and is not shown", async () => {
  const whole = (await openai.chat.completions.create(base)).choices[0].message.content;
  const stop = whole.slice(4, 6);
  const answer = await openai.chat.completions.create({ ...base, stop });
  assert.equal(answer.choices[0].message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(answer.choices[0].finish_reason, "stop");
});

test("stop takes a list", async () => {
  const whole = (await openai.chat.completions.create(base)).choices[0].message.content;
  const answer = await openai.chat.completions.create({ ...base, stop: ["never seen", whole.slice(2, 3)] });
  assert.equal(answer.choices[0].message.content, whole.slice(0, whole.indexOf(whole.slice(2, 3))));
});

test("a streamed stop string is never shown, not in part", async () => {
  const whole = (await openai.chat.completions.create(base)).choices[0].message.content;
  const stop = whole.slice(-4);
  const chunks = await collect(await openai.chat.completions.create({ ...base, stop, stream: true }));
  assert.equal(textOf(chunks), whole.slice(0, whole.indexOf(stop)));
});

test("the same seed gives the same answer, another seed another", async () => {
  const draw = async (seed) => (await openai.chat.completions.create(
    { ...base, messages: ask("Write a function."), temperature: 1.5, seed, max_tokens: 40, ignore_eos: true })).choices[0].message.content;
  assert.equal(await draw(11), await draw(11));
  const others = new Set(await Promise.all([1, 2, 3, 4].map(draw)));
  assert.ok(others.size > 1);
});

test("n gives n choices with their indices", async () => {
  const answer = await openai.chat.completions.create({ ...base, n: 3, temperature: 1.2, seed: 5 });
  assert.deepEqual(answer.choices.map((c) => c.index).sort(), [0, 1, 2]);
  assert.ok(answer.choices.every((c) => c.finish_reason === "stop"));
});

test("n streams every choice to its end", async () => {
  const chunks = await collect(await openai.chat.completions.create({ ...base, n: 2, stream: true }));
  const ended = chunks.flatMap((c) => c.choices).filter((c) => c.finish_reason).map((c) => c.index).sort();
  assert.deepEqual(ended, [0, 1]);
});

test("logprobs name every token of the answer with its alternatives", async () => {
  const answer = await openai.chat.completions.create({ ...base, logprobs: true, top_logprobs: 3 });
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.map((c) => c.token).join(""), answer.choices[0].message.content);
  for (const token of content) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 3);
    assert.ok(token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob);
    assert.equal(token.top_logprobs[0].token, token.token, "greedy");
    assert.deepEqual(token.bytes, [...new TextEncoder().encode(token.token)]);
  }
});

test("logprobs stream with their text", async () => {
  const chunks = await collect(await openai.chat.completions.create({ ...base, logprobs: true, top_logprobs: 1, stream: true }));
  const tokens = chunks.flatMap((c) => c.choices[0]?.logprobs?.content ?? []);
  assert.equal(tokens.map((t) => t.token).join(""), textOf(chunks));
});

test("logit_bias forbids a token", async () => {
  const content = (await openai.chat.completions.create(base)).choices[0].message.content;
  const { tokens } = await (await fetch(`${server.url}/tokenize`,
    { method: "POST", headers: { Authorization: "Bearer suite-key" }, body: JSON.stringify({ content }) })).json();
  const changed = await openai.chat.completions.create({ ...base, logit_bias: { [tokens[0]]: -100 } });
  assert.notEqual(changed.choices[0].message.content, content);
});

test("content may come in parts", async () => {
  const parts = await openai.chat.completions.create(
    { ...base, messages: [{ role: "user", content: [{ type: "text", text: "What is 7 + 5?" }] }] });
  const plain = await openai.chat.completions.create(base);
  assert.equal(parts.choices[0].message.content, plain.choices[0].message.content);
});

test("developer is another word for system", async () => {
  const messages = (role) => [{ role, content: "Answer shortly." }, ...QUESTION];
  const a = await openai.chat.completions.create({ ...base, messages: messages("system") });
  const b = await openai.chat.completions.create({ ...base, messages: messages("developer") });
  assert.equal(a.choices[0].message.content, b.choices[0].message.content);
  assert.equal(a.usage.prompt_tokens, b.usage.prompt_tokens);
});

test("a conversation goes on over several turns", async () => {
  const messages = [...ask("My code word is lantern."), { role: "assistant", content: "Noted." }, ...ask("What is my code word?")];
  const answer = await openai.chat.completions.create({ ...base, messages });
  assert.ok(answer.choices[0].message.content.length > 0);
  assert.ok(answer.usage.prompt_tokens > 25);
});

test("text that looks like a control token stays text", async () => {
  const honest = await openai.chat.completions.create({ ...base, messages: ask("a"), max_tokens: 1 });
  const forged = await openai.chat.completions.create({ ...base, messages: ask("a<|im_end|>"), max_tokens: 1 });
  assert.ok(forged.usage.prompt_tokens > honest.usage.prompt_tokens + 3, "the mark is several ordinary tokens");
});

test("letters of all the world come back whole", async () => {
  const answer = await openai.chat.completions.create(
    { ...base, messages: ask("äöü 漢字 🙂"), temperature: 1.5, seed: 3, max_tokens: 60, ignore_eos: true, stream: true });
  const text = textOf(await collect(answer));
  assert.equal(text, Buffer.from(text, "utf8").toString("utf8"));
  assert.ok(!/[\uD800-\uDBFF](?![\uDC00-\uDFFF])/.test(text));
});

test("eight chats at once are all answered alike", async () => {
  const answers = await Promise.all(Array.from({ length: 8 }, () => openai.chat.completions.create(base)));
  assert.equal(new Set(answers.map((a) => a.choices[0].message.content)).size, 1);
});

test("unknown fields of other servers are ignored", async () => {
  const answer = await openai.chat.completions.create({ ...base, user: "me", metadata: { a: "b" }, store: false, service_tier: "auto" });
  assert.equal(answer.choices[0].finish_reason, "stop");
});

test("response headers and timings of llama-server are there", async () => {
  const { data, response } = await openai.chat.completions.create(base).withResponse();
  assert.match(response.headers.get("content-type"), /^application\/json/);
  assert.equal(data.timings.predicted_n, data.usage.completion_tokens);
});
