"""The mixture: one random training document. `python3 documents.py [SEED]` prints some."""
import random
import sys

import coding
import recall
import talk
import tool_calls
import writing
from template import Turn, render

SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a Python programmer.", "Answer briefly.",
           "You are the freelunch demo model.", "Be short and correct.", "You are a friendly assistant.", "You are an assistant that writes code."]
SYSTEM_SHARE = 0.25
THINKING_SHARE = 0.4
# Kinds of documents and how many of a hundred are of each.
MIXTURE = {"completion": 14, "stub": 19, "request": 19, "sums": 9, "tools": 10, "recall": 11, "rewriting": 8, "story": 2.5, "talk": 7.5}
SHORT_RECALL = [0, 0, 30, 80, 150, 300, 500, 700]


def _exchange(made):
    question, answer, thought = made
    return [Turn("user", question), Turn("assistant", answer, thought)]


def _several(r, make, more):
    turns = _exchange(make(r))
    while r.random() < more:
        turns += _exchange(make(r))
    return turns


def _mixed_talk(r):
    """A chat in the model's domain that moves from one subject to another."""
    makers = [talk.simple, talk.simple, talk.arithmetic, writing.rewriting]
    turns = []
    for _ in range(r.randint(2, 4)):
        turns += coding.request_turns(r) if r.random() < 0.25 else _exchange(r.choice(makers)(r))
    return turns


def document(r, long=0):
    """Segments of one document; with `long` a recall document of about that many tokens."""
    system = r.choice(SYSTEMS) if r.random() < SYSTEM_SHARE else None
    think = r.random() < THINKING_SHARE
    if long:
        return render(recall.recall(r, long), system, think)
    kind = r.choices(list(MIXTURE), MIXTURE.values())[0]
    if kind == "completion":
        return coding.bare_completion(r)
    if kind == "tools":
        system, turns = tool_calls.conversation(r)
    elif kind in ("stub", "request"):
        turns = coding.stub_turns(r) if kind == "stub" else coding.request_turns(r)
        if r.random() < 0.12:
            turns += coding.request_turns(r)
    elif kind == "sums":
        turns = _several(r, talk.arithmetic, 0.3)
    elif kind == "recall":
        turns = recall.recall(r, r.choice(SHORT_RECALL))
    elif kind == "rewriting":
        turns = _several(r, writing.rewriting, 0.1)
    elif kind == "story":
        turns = _exchange(writing.story(r))
    else:
        turns = _mixed_talk(r) if r.random() < 0.25 else _several(r, talk.simple, 0.4)
    return render(turns, system, think)


if __name__ == "__main__":
    source = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(12):
        print("=" * 60)
        print("".join(s.text for s in document(source)))
