"""Conversations with tools: which tool, which arguments, and what to say when the result is there."""
import json

import talk
import words
from template import Turn, call_text, tools_text
from words import CITIES, COLOURS, MONTHS, NAMES, crc

TOOLS = words.load("tools")["tool"]
_NOUNS = "order ticket report invoice parcel booking recipe sensor server backup contact playlist image record task session device".split()
_VERBS = "get find load check open delete update print start stop show".split()
_DEVICES = ["lamp", "fan", "heater", "radio", "light", "oven", "pump"]
_SYSTEMS = ["", "", "You are a helpful assistant.", "Use the tools when they help."]
_TOOL_WORDS = ("weather", "time", "price", "ranslat", "+", "plus", "times", "*", "compute", "alculate", "wak")
MADE_UP_SHARE = 0.35


def held_tool(name, parameters):
    return crc((name, tuple(parameters))) % 7 == 0


def _value(r, spec, given=()):
    """A value by its description in corpus/tools.toml; `given` are the call's arguments."""
    kind, _, rest = spec.partition(" ")
    if kind == "int":
        return r.randint(*map(int, rest.split()))
    if kind == "one":
        choice = r.choice(rest.split("|"))
        return int(choice) if choice.isdigit() else choice
    if kind == "words":
        return words.phrase(r, *map(int, rest.split()))
    return {
        "city": lambda: r.choice(CITIES) if r.random() < 0.8 else words.made_up_word(r).capitalize(),
        "name": lambda: r.choice(NAMES), "colour": lambda: r.choice(COLOURS),
        "email": lambda: f"{r.choice(NAMES).lower()}@{words.lower_word(r)}.com",
        "path": lambda: f"{words.lower_word(r)}/{words.lower_word(r)}.{r.choice(['txt', 'md', 'csv', 'py'])}",
        "ticker": lambda: "".join(r.choice("ABCDEFGHKLMNPQRSTX") for _ in range(3)),
        "device": lambda: f"{r.choice(COLOURS)} {r.choice(_DEVICES)}",
        "event": lambda: f"{r.choice(['lunch', 'meeting', 'call', 'training', 'party', 'dinner'])} with {r.choice(NAMES)}",
        "date": lambda: f"{r.randint(1, 28)} {r.choice(MONTHS)}", "time": lambda: f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}",
        "code": lambda: words.code_word(r),
        "expression": lambda: f"{r.randint(2, 999)} {r.choice('+-*')} {r.randint(2, 99)}",
        "sum": lambda: given[0] + given[1], "product": lambda: given[0] * given[1], "about": lambda: f"All about {given[0]}",
        "sentence": lambda: words.natural_sentence(r),
    }[kind]()


def _made_up(r):
    verb, noun = r.choice(_VERBS), r.choice(_NOUNS) if r.random() < 0.7 else words.made_up_word(r)
    parameter = r.choice(["id", "number", "code", noun + "_id", "key", "ref"])
    whole = r.random() < 0.6
    return {
        "names": [f"{verb}_{noun}"], "description": f"{verb.capitalize()} a {noun}.",
        "parameters": [{"names": [parameter], "type": "integer" if whole else "string", "description": f"{parameter} of the {noun}",
                        "value": "int 1 99999" if whole or r.random() < 0.5 else "code"}],
        "requests": [f"{verb.capitalize()} {noun} {{0}}.", f"Please {verb} the {noun} {{0}}.", f"Can you {verb} {noun} number {{0}}?"],
        "result": {"status": "one ok|done|ready|missing|open|closed"}, "answer": f"The status of {noun} {{0}} is {{status}}.",
    }


class Tool:
    """A tool as one request offers it: one of its names, one name for each parameter."""

    def __init__(self, r, held):
        for _ in range(100):
            self.kind = _made_up(r) if r.random() < MADE_UP_SHARE else r.choice(TOOLS)
            self.name = r.choice(self.kind["names"])
            self.parameters = [r.choice(p["names"]) for p in self.kind["parameters"]]
            if len(set(self.parameters)) == len(self.parameters) and held_tool(self.name, self.parameters) == held:
                break

    def spec(self):
        properties = {n: {"type": p["type"], "description": p["description"]} for n, p in zip(self.parameters, self.kind["parameters"])}
        return {"type": "function", "function": {
            "name": self.name, "description": self.kind["description"],
            "parameters": {"type": "object", "properties": properties, "required": self.parameters}}}

    def values(self, r):
        return [_value(r, p["value"]) for p in self.kind["parameters"]]

    def call(self, values):
        return call_text(self.name, list(zip(self.parameters, values)))

    def result(self, r, values):
        return {k: _value(r, spec, values) for k, spec in self.kind["result"].items()}


def offer(r, held, n):
    tools = []
    while len(tools) < n:
        tool = Tool(r, held)
        if all(tool.name != t.name and tool.kind["description"] != t.kind["description"] for t in tools):
            tools.append(tool)
    return tools


def system_text(tools, extra=""):
    return tools_text([json.dumps(t.spec(), ensure_ascii=False) for t in tools], extra)


def _written_result(r, result):
    k = r.random()
    if k < 0.8:
        return json.dumps(result)
    return "\n".join(f"{k}: {v}" for k, v in result.items()) if k < 0.92 else json.dumps(result, separators=(",", ":"))


def _plain_exchange(r):
    """A question that needs no tool, although tools are there."""
    while True:
        question, answer, thought = talk.simple(r) if r.random() < 0.6 else talk.arithmetic(r)
        if not any(w in question for w in _TOOL_WORDS):
            return [Turn("user", question), Turn("assistant", answer, thought)]


def exchange(r, tool, twice):
    """One request, its call or two calls, the results and the answer."""
    values = tool.values(r)
    question = r.choice(tool.kind["requests"]).format(*values)
    named = ", ".join(f"{p} is {v}" for p, v in zip(tool.parameters, values))
    thought, done = f"The tool {tool.name} fits. {named}.", [values]
    bare = question.rstrip(".?!")
    if twice and len(values) == 1 and bare.endswith(str(values[0])):
        done.append(tool.values(r))
        question = f"{bare} and {done[1][0]}{question[len(bare):]}"
        thought = f"I call {tool.name} twice."
    results = [tool.result(r, v) for v in done]
    answer = " ".join(tool.kind["answer"].format(*v, **result) for v, result in zip(done, results))
    return [Turn("user", question), Turn("assistant", "\n".join(tool.call(v) for v in done), thought),
            Turn("tool", results=tuple(_written_result(r, x) for x in results)),
            Turn("assistant", answer, "The tool has answered. I tell the user.")]


def conversation(r, held=False):
    """(system text, turns). Held-out tools are the pairs of name and parameter names that training never shows."""
    tools = offer(r, held, r.choice([1, 1, 2, 2, 3, 4]))
    turns = []
    for _ in range(r.choice([1, 1, 1, 2])):
        if not held and r.random() < 0.18:
            turns += _plain_exchange(r)
        else:
            turns += exchange(r, r.choice(tools), not held and r.random() < 0.12)
    return system_text(tools, r.choice(_SYSTEMS)), turns
