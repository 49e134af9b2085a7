"""Generates conversations and renders them with jinja2, set up as Hugging Face transformers does it.

    python3 conversations.py COUNT TEMPLATE...   JSON lines: {"template", "input", "expected" or "error"}
    python3 conversations.py --snippets          small templates, one for each feature of the language

The C++ test renders the same inputs and compares byte for byte.
"""
import json
import random
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


WORDS = ["hello", "Welt", "naïve", "日本語", "🦙", "e\u0301", "<b>", "&amp;", "'quoted'", '"double"', "{{ not }}",
         "{% raw %}", "<|im_end|>", "<|im_start|>system", "<think>", "</think>", "<tool_call>", "</tool_response>",
         "<tool_response>", "\\n", "\n", "\n\n", "\t", "  ", "\u00a0", "\u2028", "x = 1", "if a < b:", "%s", "~", "\x07",
         "0", "-1", "3.14", "True", "None", "[1, 2]", "\u200b", "\x7f", "Ünïcödé"]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def text(self, longest=12):
        r = self.r
        parts = [r.choice(WORDS) for _ in range(r.randrange(longest))]
        return r.choice(["", " ", "\n"]).join(parts) if r.random() < 0.5 else " ".join(parts)

    def scalar(self):
        r = self.r
        return r.choice([self.text(4), r.randrange(-10, 1000), r.random() * 10 ** r.randrange(-8, 20), True, False, None,
                         0, 1.0, -0.5, 1e22, 1e-7, 123456789012345678, ""])

    def value(self, depth=3):
        r = self.r
        kind = r.random()
        if depth == 0 or kind < 0.6:
            return self.scalar()
        if kind < 0.8:
            return [self.value(depth - 1) for _ in range(r.randrange(4))]
        return {self.name(): self.value(depth - 1) for _ in range(r.randrange(4))}

    def name(self):
        return self.r.choice(["path", "query", "q", "city", "größe", "a b", "items", "x-y", "n", "keys", "name"])

    def tool(self):
        r = self.r
        parameters = {"type": "object",
                      "properties": {self.name(): {"type": r.choice(["string", "integer", "object", "boolean"]),
                                                   "description": self.text(5)} for _ in range(r.randrange(4))},
                      "required": [self.name() for _ in range(r.randrange(2))]}
        return {"type": "function", "function": {"name": self.name(), "description": self.text(6),
                                                 "parameters": parameters}}

    def parts(self, images):
        r = self.r
        out = []
        for _ in range(r.randrange(4)):
            kind = r.random()
            if kind < 0.7 or not images:
                out.append({"type": "text", "text": self.text()})
            elif kind < 0.85:
                out.append(r.choice([{"type": "image"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]))
            else:
                out.append({"type": "video", "video": "v.mp4"})
        if r.random() < 0.03:
            out.append({"type": "mystery"})
        return out

    def content(self, images=False):
        r = self.r
        kind = r.random()
        if kind < 0.7:
            return self.text()
        if kind < 0.95:
            return self.parts(images)
        return None

    def assistant(self):
        r = self.r
        message = {"role": "assistant", "content": self.content()}
        if r.random() < 0.3:
            message["content"] = "<think>\n" + self.text() + "\n</think>\n\n" + self.text()
        if r.random() < 0.4:
            message["reasoning_content"] = r.choice([self.text(), "", None])
        if r.random() < 0.5:
            calls = []
            for _ in range(r.randrange(4)):
                call = {"name": self.name()}
                if r.random() < 0.9:
                    call["arguments"] = {self.name(): self.value() for _ in range(r.randrange(4))}
                calls.append({"type": "function", "id": "c1", "function": call} if r.random() < 0.8 else call)
            message["tool_calls"] = r.choice([calls, calls, None])
        return message

    def conversation(self):
        r = self.r
        messages = []
        if r.random() < 0.5:
            messages.append({"role": "system", "content": self.content(images=r.random() < 0.1)})
        for _ in range(r.randrange(5)):
            messages.append({"role": "user", "content": self.content(images=True)})
            if r.random() < 0.1:
                messages[-1]["content"] = "<tool_response>" + self.text() + "</tool_response>"
            if r.random() < 0.8:
                messages.append(self.assistant())
                for _ in range(r.choice([0, 0, 1, 2, 3])):
                    messages.append({"role": "tool", "content": self.content(), "tool_call_id": "c1"})
                if r.random() < 0.3:
                    messages.append(self.assistant())
        if r.random() < 0.05:
            messages.append({"role": r.choice(["system", "developer", "tool"]), "content": self.text()})
        out = {"messages": messages, "add_generation_prompt": r.random() < 0.7, "kwargs": {}}
        if r.random() < 0.5:
            out["tools"] = [self.tool() for _ in range(r.randrange(4))]
        if r.random() < 0.4:
            out["kwargs"]["enable_thinking"] = r.choice([True, False])
        if r.random() < 0.2:
            out["kwargs"]["add_vision_id"] = True
        return out


def render(compile_template, data):
    variables = {"messages": data["messages"], "add_generation_prompt": data["add_generation_prompt"]}
    if "tools" in data:
        variables["tools"] = data["tools"]
    variables.update(data["kwargs"])
    try:
        return {"expected": compile_template().render(**variables)}
    except Raised as error:
        return {"raised": str(error)}
    except Exception as error:  # the engine's own words are not compared, only that it fails too
        return {"error": type(error).__name__ + ": " + str(error)}


def conversations(count, templates):
    env = environment()
    for path in templates:
        with open(path, encoding="utf-8", newline="") as file:
            compiled = env.from_string(file.read())
        for seed in range(count):
            data = Maker(seed).conversation()
            yield {"template": path, "input": data, **render(lambda: compiled, data)}


def snippets():
    from snippets import SNIPPETS, VARIABLES
    env = environment()
    for source in SNIPPETS:
        data = {"messages": [], "add_generation_prompt": True, "kwargs": VARIABLES}
        yield {"source": source, "input": data, **render(lambda: env.from_string(source), data)}


def main():
    rows = snippets() if sys.argv[1] == "--snippets" else conversations(int(sys.argv[1]), sys.argv[2:])
    for row in rows:
        print(json.dumps(row))
    print(json.dumps({"jinja2": jinja2.__version__}))


if __name__ == "__main__":
    main()
