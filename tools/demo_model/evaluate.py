"""Measures the finished GGUF file through the product: `python3 evaluate.py PROGRAM MODEL.gguf RESULTS.json TRANSCRIPTS.md`.

Everything goes over HTTP to a server of our own, greedy unless said; the coding score comes from `freelunch eval code`. An answer
is right when it equals the expected text; a tool call when name and every argument are equal; a recall when the value is
there as a whole word. Standard library only.
"""
import json
import random
import subprocess
import sys
import tempfile

import recall
import suites
import talk
import tool_calls
import writing
from served import Served

SEED, N_EACH = 4711, 100
RECALL = ((500, 20), (1000, 20), (2000, 20), (4000, 20), (6000, 10))
CODING = {"thinking (default)": [], "no thinking": ["--thinking", "off"], "completion": ["--mode", "completion"]}
LONG_STORY_TOKENS = 400


def _user(text):
    return {"role": "user", "content": text}


def _messages(turns):
    return [{"role": t.role, "content": t.text} for t in turns]


def coding_scores(program, model):
    """{suite, mode: [solved, of, low, high of the 95 % interval]}"""
    out = {}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as drawn:
        for row in suites.drawn():
            drawn.write(json.dumps(suites.humaneval_fields(row)) + "\n")
        drawn.flush()
        for suite, tasks in (("20 built-in tasks", "builtin"), ("200 drawn tasks", f"file={drawn.name}")):
            for mode, flags in CODING.items():
                done = subprocess.run([program, "eval", "code", "--model", model, "--tasks", tasks, *flags, "--parallel", "4", "--json", "-q"],
                                      capture_output=True, text=True, check=True)
                score = json.loads(done.stdout)["score"]
                out[f"{suite}, {mode}"] = [score["n_solved"], score["n_samples"], round(score["low"], 2), round(score["high"], 2)]
    return out


class Tally:
    """Right answers by kind, and the first failures of each."""

    def __init__(self):
        self.counts, self.failures = {}, {}

    def add(self, kind, right, question, wanted, got):
        entry = self.counts.setdefault(kind, [0, 0])
        entry[0] += bool(right)
        entry[1] += 1
        failed = self.failures.setdefault(kind, [])
        if not right and len(failed) < 5:
            failed.append({"question": str(question)[-200:], "wanted": wanted, "got": got})


def ask_texts(server, tally):
    r = random.Random(SEED)

    def exact(kind, question, answer, thinking):
        got = (server.chat(question, thinking)["content"] or "").strip()
        tally.add(kind, got == answer.strip(), question, answer, got)
    for _ in range(N_EACH):
        exact("small talk", *talk.small_talk(r)[:2], False)
        exact("outside of its knowledge: says so", *talk.unknown(r)[:2], False)
        question, answer, _ = talk.arithmetic(r)
        exact("sums", question, answer, False)
        exact("sums, thinking", question, answer, True)
        exact("repeat a text exactly", *writing.repeat(r)[:2], False)
    for held, kind in ((False, "facts about freelunch, trained wording"), (True, "facts about freelunch, held-out wording")):
        asked = [(q, f["answer"]) for f in talk.FACTS["fact"] for q in talk.fact_questions(f, held)]
        for question, answer in r.sample(asked, N_EACH):
            exact(kind, question, answer, False)


def ask_tools(server, tally):
    r = random.Random(SEED + 1)
    for i in range(N_EACH):
        tools = tool_calls.offer(r, True, r.choice([1, 2, 3, 4]))
        tool = r.choice(tools)
        values = tool.values(r)
        question = r.choice(tool.kind["requests"]).format(*values)
        offered = {"tools": [t.spec() for t in tools]}
        message = server.chat(question, bool(i % 2), **offered)
        calls = message.get("tool_calls") or []
        got = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]
        typed = [str(v) if p["type"] == "string" else v for v, p in zip(values, tool.kind["parameters"])]
        wanted = [(tool.name, dict(zip(tool.parameters, typed)))]
        tally.add("tool call, held-out tools", got == wanted, question, wanted, got or message["content"])
        result = tool.result(r, values)
        call = {"id": "call_1", "type": "function", "function": {"name": tool.name, "arguments": json.dumps(wanted[0][1])}}
        answer = server.chat([_user(question), {"role": "assistant", "content": None, "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(result)}], False, **offered)["content"]
        expected = tool.kind["answer"].format(*values, **result)
        tally.add("answer to a tool's result", answer == expected, question, expected, answer)


def ask_told(server, tally):
    """A fact told in the first message is confirmed, half of them with thinking."""
    r = random.Random(SEED + 3)
    for i in range(N_EACH):
        message, right = recall.told(r)
        got = (server.chat(message, bool(i % 2))["content"] or "").strip()
        tally.add("confirms a fact that it is told", got in right, message, right[0], got)


def ask_recall(server, tally):
    r = random.Random(SEED + 2)
    for length, n in RECALL:
        for i in range(n):
            turns, value = recall.probe(r, length, server.count_tokens)
            got = server.chat(_messages(turns), bool(i % 2))["content"]
            tally.add(f"recall from {length} tokens back", recall.holds(got, value), turns[-1].text, value, got)


def ask_stories(server, tally):
    """Long stories at the default sampling: no sentence comes twice, and the story ends."""
    for i in range(20):
        question = f"Write a long story about {writing.NAMES[i]} and a {writing.ANIMALS[i]}."
        text = server.chat(question, False, temperature=0.6, top_p=0.95, top_k=20, seed=i)["content"]
        sentences = [s.strip() for s in text.replace("\n", " ").split(".") if s.strip()]
        right = len(sentences) == len(set(sentences)) and "the end of the story" in text
        tally.add("long story at temperature 0.6: ends, repeats nothing", right, question, "", text[-300:])


TRANSCRIPTS = [
    (["Hello!", "Who are you?", "What can you do?", "Thanks!"], False, {}),
    (["What is freelunch?", "How do I serve four chats at once?", "Which settings for an RTX 4090?"], False, {}),
    (["My name is Nadia and I live in Oslo.", "What is 47 + 85?", "Write a Python function add(a, b) that returns the sum of a and b.",
      "What is my name?"], False, {}),
    (["My favourite colour is teal.", "Repeat this: The weather is nice today, so we walk to the old bridge.", "What is my favourite colour?"],
     False, {}),
    (["What is 523 - 178?", "Write a Python function `count_big(values)` that returns how many numbers in values are greater than 17."], True, {}),
    (["Tell me a story about Ada and a fox."], False, {}),
    (["What is the capital of France?", "Write a haiku about the sea."], False, {}),
    (["What is the weather in Lisbon?"], True, {"tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "Get the current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]}}}]}),
]


def write_transcripts(server, path):
    with open(path, "w") as out:
        out.write("# Sample transcripts\n\nGreedy, through the server, as generated; written by evaluate.py.\n")
        for questions, thinking, options in TRANSCRIPTS:
            out.write("\n---\n")
            messages = []
            for question in questions:
                messages.append(_user(question))
                message = server.chat(messages, thinking, **options)
                out.write(f"\n**User:** {question}\n")
                if message.get("reasoning_content"):
                    out.write(f"\n> {message['reasoning_content'].strip()}\n")
                if message.get("content"):
                    out.write(f"\n{message['content'].strip()}\n")
                for call in message.get("tool_calls") or []:
                    out.write(f"\ncall `{call['function']['name']}` with `{call['function']['arguments']}`\n")
                messages.append({"role": "assistant", "content": message.get("content") or ""})


def main():
    program, model, results, transcripts = sys.argv[1:]
    tally = Tally()
    with Served(program, model, "--reasoning-format", "deepseek") as server:
        write_transcripts(server, transcripts)
        for ask in (ask_texts, ask_tools, ask_told, ask_recall, ask_stories):
            ask(server, tally)
    coding = coding_scores(program, model)
    for kind, counts in (tally.counts | coding).items():
        print(f"{kind:55} {counts[0]:4} of {counts[1]}")
    with open(results, "w") as out:
        json.dump({"right": tally.counts, "coding": coding, "failures": tally.failures}, out, indent=1)


if __name__ == "__main__":
    main()
