// Thoughts, tools, completions and models.
import assert from "node:assert/strict";
import { NO_THOUGHT, QUESTION, WEATHER, after, ask, before, collect, startServer, test, textOf } from "./server.js";

let server, openai;
before(async () => { server = await startServer(); openai = server.client(); });
after(async () => { assert.equal(await server.stop(), 0); });

const base = { model: "demo", temperature: 0 };
const weather = { ...base, messages: ask("What is the weather in Paris?"), tools: [WEATHER] };

test("a thought is apart from the answer", async () => {
  const { choices: [{ message }], usage } = await openai.chat.completions.create({ ...base, messages: QUESTION });
  assert.ok(message.reasoning_content.length > 0);
  assert.ok(message.content.length > 0);
  assert.ok(!message.content.includes("</think>"));
  assert.ok(usage.completion_tokens_details.reasoning_tokens > 0);
});

test("a streamed thought comes first", async () => {
  const chunks = await collect(await openai.chat.completions.create({ ...base, messages: QUESTION, stream: true }));
  const fields = chunks.map((c) => c.choices[0]?.delta ?? {}).map((d) => (d.reasoning_content ? "r" : d.content ? "c" : "")).join("");
  assert.match(fields, /^r+c+$/);
  const whole = (await openai.chat.completions.create({ ...base, messages: QUESTION })).choices[0].message;
  assert.equal(textOf(chunks, "reasoning_content"), whole.reasoning_content);
  assert.equal(textOf(chunks), whole.content);
});

test("reasoning_format none keeps the thought in the content", async () => {
  const { message } = (await openai.chat.completions.create({ ...base, messages: QUESTION, reasoning_format: "none" })).choices[0];
  assert.match(message.content, /^<think>\n[^]*<\/think>/);
  assert.equal(message.reasoning_content, undefined);
});

test("enable_thinking false leaves the thought out", async () => {
  const { message } = (await openai.chat.completions.create({ ...base, messages: QUESTION, ...NO_THOUGHT })).choices[0];
  assert.equal(message.reasoning_content ?? "", "");
  assert.ok(message.content.length > 0);
});

test("reasoning_effort none leaves it out, too", async () => {
  const { message } = (await openai.chat.completions.create({ ...base, messages: QUESTION, reasoning_effort: "none" })).choices[0];
  assert.equal(message.reasoning_content ?? "", "");
});

test("a budget closes the thought", async () => {
  const { message } = (await openai.chat.completions.create(
    { ...base, messages: QUESTION, reasoning_budget_tokens: 3, max_tokens: 60 })).choices[0];
  const free = (await openai.chat.completions.create({ ...base, messages: QUESTION, max_tokens: 60 })).choices[0].message;
  assert.ok((message.reasoning_content ?? "").length < free.reasoning_content.length);
});

test("a tool is called with JSON arguments", async () => {
  const { choices: [choice] } = await openai.chat.completions.create(weather);
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.equal(call.type, "function");
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  assert.ok(call.id.length > 0);
});

test("a streamed call has its name once and its arguments in pieces", async () => {
  const chunks = await collect(await openai.chat.completions.create({ ...weather, stream: true }));
  const deltas = chunks.flatMap((c) => c.choices[0]?.delta?.tool_calls ?? []);
  assert.equal(deltas.filter((d) => d.function?.name).length, 1);
  const whole = (await openai.chat.completions.create(weather)).choices[0].message.tool_calls[0];
  assert.equal(deltas.map((d) => d.function?.arguments ?? "").join(""), whole.function.arguments);
  assert.equal(chunks.findLast((c) => c.choices[0]?.finish_reason).choices[0].finish_reason, "tool_calls");
});

test("the client's helper assembles a streamed call", async () => {
  const final = await openai.chat.completions.stream(weather).finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.name, "get_weather");
});

test("the client's helper runs the tool and comes back with an answer", async () => {
  const asked = [];
  const runner = openai.chat.completions.runTools({
    ...weather,
    tools: [{ type: "function", function: { ...WEATHER.function, parse: JSON.parse, function: (args) => { asked.push(args); return '{"sky": "clear", "temperature": 21}'; } } }],
  }, { maxChatCompletions: 3 });
  const text = await runner.finalContent();
  assert.equal(asked.length >= 1, true);
  assert.deepEqual(Object.keys(asked[0]), ["city"]);
  assert.ok(text.length > 0);
});

test("a tool's result is read", async () => {
  const call = (await openai.chat.completions.create(weather)).choices[0].message;
  const messages = [...weather.messages, call, { role: "tool", tool_call_id: call.tool_calls[0].id, content: '{"sky": "rain", "temperature": 4}' }];
  const { choices: [choice] } = await openai.chat.completions.create({ ...weather, messages });
  assert.equal(choice.finish_reason, "stop");
  assert.ok(choice.message.content.length > 0);
});

test("tool_choice none calls nothing", async () => {
  const { choices: [choice] } = await openai.chat.completions.create({ ...weather, tool_choice: "none", max_tokens: 60 });
  assert.equal(choice.message.tool_calls, undefined);
});

test("a completion continues its prompt", async () => {
  const answer = await openai.completions.create({ ...base, prompt: "def add(a, b):", max_tokens: 8 });
  assert.equal(answer.object, "text_completion");
  assert.ok(answer.choices[0].text.length > 0);
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  assert.ok(answer.usage.completion_tokens <= 8);
});

test("a streamed completion gives the same text", async () => {
  const body = { ...base, prompt: "def add(a, b):", max_tokens: 12 };
  const chunks = await collect(await openai.completions.create({ ...body, stream: true }));
  assert.equal(chunks.map((c) => c.choices[0]?.text ?? "").join(""), (await openai.completions.create(body)).choices[0].text);
});

test("a completion of several prompts has a choice for each", async () => {
  const answer = await openai.completions.create({ ...base, prompt: ["a = 1", "b = 2"], max_tokens: 3 });
  assert.equal([answer].flat().flatMap((a) => a.choices).length, 2);
});

test("a completion takes ids", async () => {
  const { tokens } = await (await fetch(`${server.url}/tokenize`,
    { method: "POST", headers: { Authorization: "Bearer suite-key" }, body: JSON.stringify({ content: "def add(a, b):" }) })).json();
  const ids = await openai.completions.create({ ...base, prompt: tokens, max_tokens: 6 });
  const text = await openai.completions.create({ ...base, prompt: "def add(a, b):", max_tokens: 6 });
  assert.equal(ids.choices[0].text, text.choices[0].text);
});

test("a completion's stop string is not shown", async () => {
  const whole = (await openai.completions.create({ ...base, prompt: "def add(a, b):", max_tokens: 12 })).choices[0].text;
  const stop = whole.slice(5, 8);
  const cut = (await openai.completions.create({ ...base, prompt: "def add(a, b):", max_tokens: 12, stop })).choices[0].text;
  assert.equal(cut, whole.slice(0, whole.indexOf(stop)));
});

test("the models are listed", async () => {
  const { data } = await openai.models.list();
  assert.equal(data.length, 1);
  assert.equal(data[0].id, "also-demo", "the first alias in the alphabet");
  assert.equal(data[0].object, "model");
});

test("an answer names the model by its id", async () => {
  const [{ id }] = (await openai.models.list()).data;
  const answer = await openai.chat.completions.create({ ...base, messages: QUESTION, max_tokens: 1 });
  assert.equal(answer.model, id);
});
