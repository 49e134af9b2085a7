"""Held-out coding suites in HumanEval's form: `python3 suites.py builtin|random OUT.jsonl`.

builtin   18 families, each once, and the two compositions of corpus/compositions.toml: data/tasks/builtin.jsonl
random    200 tasks drawn like training tasks, but only held-out wordings, names and combinations
"""
import json
import random
import sys

import families
import words
from coding import TYPING_MODULE, describe_arguments, docstring, held_request, signature
from families import example, indent, make_task

BUILTIN_SEED, BUILTIN_FAMILIES = 2026, 18
RANDOM_SEED, RANDOM_TASKS = 777, 200
MAX_CHECKS, MIN_RESULTS = 8, 2
BASE_NAMES = {n for f in families.FIXED for n in f["names"]} | {n for f in families.PARAMETRIC for n in f["names"].split()}


def _row(task_id, prompt, name, body, checks, request, phrase):
    """A task in HumanEval's fields, and two of our own: a request in words, and what identifies the description."""
    return {"task_id": task_id, "prompt": prompt, "entry_point": name, "canonical_solution": indent(body),
            "test": "def check(candidate):\n" + "".join(checks), "request": request, "phrase": phrase}


def humaneval_fields(row):
    return {k: v for k, v in row.items() if k not in ("request", "phrase")}


def _check(values, result):
    return f"    assert candidate({', '.join(map(repr, values))}) == {result!r}\n"


def _family_row(r, task, task_id):
    """The task with a stub of two examples and up to eight checks, or nothing if all results are the same."""
    imports, head = signature(task, TYPING_MODULE)
    prompt = imports + head + docstring(r, task, True, 2)
    checks, results = [], set()
    for _ in range(60):
        values, result = example(r, task)
        line = _check(values, result)
        if line not in checks:
            checks.append(line)
            results.add(repr(result))
        if len(checks) == MAX_CHECKS:
            break
    if len(results) < MIN_RESULTS:
        return None
    return _row(task_id, prompt, task.name, task.body, checks, held_request(r, task), task.phrase)


def _composition_row(spec, task_id):
    imports = "from typing import List\n\n\n" if "List[" in spec["arguments"] else ""
    head = f"def {spec['name']}({spec['arguments']}) -> {spec['returns']}:\n"
    space = {}
    exec("from typing import List\n" + head + indent(spec["body"]), space)
    cases = [(values, space[spec["name"]](*values)) for values in spec["cases"]]
    shown = "".join(f"    >>> {spec['name']}({', '.join(map(repr, v))})\n    {x!r}\n" for v, x in cases[:2])
    argument = spec["arguments"].split(":")[0]
    return _row(task_id, f'{imports}{head}    """{spec["text"]}\n{shown}    """\n', spec["name"], spec["body"],
                [_check(v, x) for v, x in cases], f"Write a Python function {spec['name']}({argument}). {spec['text']}", spec["text"])


def builtin():
    r, rows, seen = random.Random(BUILTIN_SEED), [], set()
    while len(rows) < BUILTIN_FAMILIES:
        task = make_task(r, held=True)
        if task.number in seen or task.name in BASE_NAMES:
            continue
        row = _family_row(r, task, f"Builtin/{len(rows)}")
        if row:
            rows.append(row)
            seen.add(task.number)
    for spec in words.load("compositions")["task"]:
        rows.append(_composition_row(spec, f"Builtin/{len(rows)}"))
    return rows


def drawn(n=RANDOM_TASKS):
    r, rows, seen = random.Random(RANDOM_SEED), [], set()
    while len(rows) < n:
        row = _family_row(r, make_task(r, held=True), f"Random/{len(rows)}")
        if row and row["prompt"] not in seen:
            rows.append(row)
            seen.add(row["prompt"])
    return rows


if __name__ == "__main__":
    chosen = {"builtin": builtin, "random": drawn}[sys.argv[1]]()
    with open(sys.argv[2], "w") as out:
        for row in chosen:
            if sys.argv[1] == "builtin":
                row = humaneval_fields(row)
            out.write(json.dumps(row) + "\n")
