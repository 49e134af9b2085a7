"""Checks of the corpus: `python3 check_corpus.py [DOCUMENTS]`. Standard library and jinja2 (python3-jinja2).

* chat_template.jinja renders exactly what the generator writes, for random conversations of all kinds;
* no training document contains a description or a function name of the built-in tasks;
* no wording for training says what a held-out wording says, up to case, marks and words such as "the";
* data/tasks/builtin.jsonl is what suites.py writes, and every solution passes its own checks.
"""
import json
import pathlib
import random
import re
import sys

import jinja2

import coding
import documents
import families
import recall
import suites
import talk
import tool_calls
from template import TEMPLATE, Turn, render

BUILTIN = pathlib.Path(__file__).resolve().parents[2] / "data" / "tasks" / "builtin.jsonl"
CONVERSATIONS, DOCUMENTS = 600, 20000


def _raise(message):
    raise ValueError(message)


def _environment():
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    env.globals["raise_exception"] = _raise
    return env


def _messages(turns, system, think):
    """The turns as a client would send them."""
    out = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if turn.role == "tool":
            out += [{"role": "tool", "content": x} for x in turn.results]
            continue
        message = {"role": turn.role, "content": turn.text}
        if turn.role == "assistant":
            message["reasoning_content"] = turn.thought if think else ""
            if turn.text.startswith("<tool_call>"):
                calls = turn.text.split("</tool_call>")[:-1]
                message["content"], message["tool_calls"] = "", [{"function": {
                    "name": re.search("<function=(.*)>", c).group(1),
                    "arguments": dict(re.findall(r"<parameter=(.*)>\n(.*)\n</parameter>", c))}} for c in calls]
        out.append(message)
    return out


def check_template():
    template, r = _environment().from_string(TEMPLATE), random.Random(5)
    for i in range(CONVERSATIONS):
        think, tools, extra = r.random() < 0.5, None, r.choice(["", "Answer briefly."])
        if i % 3 == 0:
            offered, turns = tool_calls.offer(r, False, r.randint(1, 4)), []
            for _ in range(r.randint(1, 2)):
                turns += tool_calls.exchange(r, r.choice(offered), True)
            tools, system = [t.spec() for t in offered], tool_calls.system_text(offered, extra)
        else:
            system = extra or None
            turns = recall.recall(r, r.choice([0, 100, 400])) if i % 3 == 1 else coding.request_turns(r)
        want = "".join(s.text for s in render(turns, system, think))
        got = template.render(messages=_messages(turns, extra, think), tools=tools)
        assert got == want, f"conversation {i}:\n{got}\n--- expected ---\n{want}"
        ask = [Turn("user", "Hello")]
        for thinking in (False, True):
            got = template.render(messages=_messages(ask, extra, False), tools=tools, add_generation_prompt=True, enable_thinking=thinking)
            want = "".join(s.text for s in render([*ask, Turn("assistant")], system, thinking)[:-2])
            assert got == want, f"prompt {i}:\n{got}\n--- expected ---\n{want}"
    print(f"{CONVERSATIONS} conversations rendered equal")


def check_held_out(n):
    rows = suites.builtin()
    names, texts = [row["entry_point"] for row in rows], [row["phrase"] for row in rows]
    pattern = re.compile("|".join(rf"\b{re.escape(x)}\b" for x in names) + "|" + "|".join(map(re.escape, texts)))
    r = random.Random(77)
    for i in range(n):
        text = "".join(s.text for s in documents.document(r))
        found = pattern.search(text)
        assert not found, f"document {i} contains {found.group()!r} of the built-in tasks"
    print(f"{n} documents without any of {len(names)} names and {len(texts)} descriptions")


FILLER_WORDS = set("the a an of in that is are as by and with for it its this all to".split())


def _content(text):
    return frozenset(re.findall(r"[a-z0-9${}_]+", text.lower())) - FILLER_WORDS


def check_wordings():
    """A wording of a single content word, such as `-A0` or `abs(A0)`, is compared only as it stands."""
    n = 0
    wordings = [(f["phrases"][:-1], f["phrases"][-1:]) for f in families.FIXED + families.PARAMETRIC]
    wordings += [(talk.fact_questions(f, False), talk.fact_questions(f, True)) for f in talk.FACTS["fact"]]
    for trained, held in wordings:
        for phrase in trained:
            n += 1
            assert phrase not in held, phrase
            if len(_content(phrase)) > 1:
                assert _content(phrase) not in map(_content, held), f"{phrase!r} says the same as a held-out wording of {held}"
    print(f"{n} wordings, none of them like a held-out one")


def check_builtin():
    rows = suites.builtin()
    for row in rows:
        space = {}
        exec(row["prompt"] + row["canonical_solution"] + "\n" + row["test"], space)
        space["check"](space[row["entry_point"]])
    stored = [json.loads(line) for line in BUILTIN.read_text().splitlines()]
    assert stored == [suites.humaneval_fields(row) for row in rows], f"{BUILTIN} differs from what suites.py writes"
    print(f"{len(rows)} built-in tasks, each solved by its solution")


if __name__ == "__main__":
    check_template()
    check_builtin()
    check_wordings()
    check_held_out(int(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENTS)
