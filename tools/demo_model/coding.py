"""Coding documents: a stub to complete, a request in words, a bare completion."""
import dataclasses

import families
from families import PYTHON_TYPE, example, indent, make_task
from template import ANSWER, SAID, Turn, segment
from words import crc

DESCRIPTION = {"list[int]": "a list of integers", "str": "a string", "list[str]": "a list of strings", "int": "an integer",
               "dict[str, int]": "a dictionary", "list[list[int]]": "a list of lists"}
DOCSTRINGS = ["Return {np}.", "Returns {np}.", "Compute and return {np}.", "Given {ad}, return {np}.", "This function returns {np}.",
              "Get {np}.", "Find and return {np}.", "Take {ad} and return {np}.", "Return {np}.",
              "The function takes {ad} and returns {np}.", "Calculate {np}.", "For {ad}, give {np}."]
HELD_DOCSTRINGS = ["The result is {np}.", "Take {ad}. Find and return {np}.", "Give back {np}.", "For the given {ad}, compute {np}."]
REQUESTS = [
    "Write a Python function `{name}({args})` that returns {np}.", "Write a function {name}({args}) that returns {np}.",
    "Please write a Python function called `{name}` that takes {ad} and returns {np}.",
    "I need a Python function `{name}` with the arguments {args}. It should return {np}.",
    "Implement `{name}({args})`. It returns {np}.",
    "Can you write a function named {name} in Python? It takes {ad} and gives back {np}.",
    "Define a function {name}({args}) which computes {np}.", "Python: {name}({args}) should return {np}.",
    "Create a Python function called {name}({args}) to get {np}.", "Code a function `{name}({args})`. The result should be {np}.",
    "I have {ad}. Please write `{name}({args})`. It returns {np}.", "Write `{name}({args})` to get {np}.",
    "{name}({args}): {np}. Write it in Python.", "Given {ad}, write a Python function {name}({args}) which finds {np}.",
    "I want {np}. The function is called {name} and has the arguments {args}.",
    "Hi, could you write a Python function {name}({args}) that returns {np}? Thanks!",
    "Make a function named `{name}` with parameters {args} returning {np}.", "def {name}({args}) should return {np}. Write it.",
    "Please help me with Python: I need {name}({args}), which returns {np}.",
    "Write python code: function {name}, arguments {args}, result {np}.",
    "There is {ad}. The function {name}({args}) has to give me {np}. Can you write it?",
    "write a python function {name} that takes {args} and returns {np}",
    "I am looking for a function `{name}({args})`. What it computes is {np}.", "Program {name}({args}) so that it returns {np}.",
    "My task: {name}({args}) gives back {np}. Please solve it in Python.", "Write {name}({args}). It should return {np}.",
    "Write a function `{name}` which takes {ad} and returns {np}.", "In Python, write {name}({args}) so that the result is {np}.",
]
HELD_REQUESTS = ["Please implement a Python function {name}({args}). The function should give back {np}.",
                 "I have {ad}. Write a Python function `{name}({args})` for {np}.", "Create `{name}({args})` in Python. It computes {np}."]
ANONYMOUS = ["Write a Python function that returns {np}.", "How do I get {np} in Python?", "Show me Python code for {np}.",
             "I have {ad}. Write a function for {np}.", "Give me a function that computes {np}.", "Write a function for {np}.",
             "Write Python code that computes {np}.", "I need {np}. Write a Python function."]
STUBS = [
    "Complete this Python function:\n\n```python\n{stub}```", "Complete the following function.\n\n```python\n{stub}```",
    "Finish this function:\n```python\n{stub}```", "Here is a function without a body. Write it.\n\n```python\n{stub}```",
    "Complete the following Python function. Answer with the whole function in a code block.\n\n```python\n{stub}```",
    "Complete the following Python function. Answer with the complete function in one Python code block.\n\n```python\n{stub}```",
    "Complete the following Python function. Answer with the code only.\n\n```python\n{stub}```",
    "Fill in the body:\n\n```python\n{stub}```", "{stub}", "Please implement the function below in Python.\n\n```python\n{stub}```",
    "Write the complete Python function for this prompt. Only give the code.\n\n```python\n{stub}```",
    "Complete the code below and return the full function in a Python code block.\n\n{stub}",
    "Can you complete this function?\n\n```python\n{stub}```", "Write the body of this function.\n\n```python\n{stub}```",
    "Implement:\n\n```python\n{stub}```", "```python\n{stub}```\n\nPlease complete this function.",
]
PLANS = ["The function `{name}` takes {ad} and should return {np}. Plan: {plan}.", "I need {np}. To do that: {plan}."]
UNTYPED, TYPED, TYPING_MODULE = range(3)


def describe_arguments(task):
    parts = [f"{DESCRIPTION[PYTHON_TYPE[t]]} {a}" for a, t in zip(task.args, task.family["types"])]
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + " and " + parts[-1]


def signature(task, style):
    """(imports, def line) in one of the three styles of annotation."""
    if style == UNTYPED:
        return "", f"def {task.name}({', '.join(task.args)}):\n"
    hints, returns, imports = task.hints, task.family["returns"], ""
    if style == TYPING_MODULE:
        hints, returns = ([h.replace("list[", "List[").replace("dict[", "Dict[") for h in hs] for hs in (hints, [returns]))
        returns = returns[0]
        names = [n for n in ("Dict", "List") if any(n + "[" in h for h in hints + [returns])]
        imports = f"from typing import {', '.join(names)}\n\n\n" if names else ""
    return imports, f"def {task.name}({', '.join(f'{a}: {h}' for a, h in zip(task.args, hints))}) -> {returns}:\n"


def call(task, values):
    return f"{task.name}({', '.join(map(repr, values))})"


def docstring(r, task, held, n_examples):
    text = r.choice(HELD_DOCSTRINGS if held else DOCSTRINGS).format(np=task.phrase, ad=describe_arguments(task))
    text = text[0].upper() + text[1:]
    form = r.random()
    if n_examples == 0 and form < 0.4:
        return f'    """{text}"""\n'
    out = f'    """{text}\n' if form < 0.7 else f'    """\n    {text}\n'
    for _ in range(n_examples):
        values, result = example(r, task)
        out += f"    >>> {call(task, values)}\n    {result!r}\n"
    return out + '    """\n'


def plan(r, task):
    return r.choice(PLANS).format(name=task.name, ad=describe_arguments(task), np=task.first_phrase, plan=task.plan)


def _block(r, question, code):
    block = f"```python\n{code}```"
    return "Here is the function:\n\n" + block if "nly give" not in question and crc(question) % 3 == 0 else block


def bare_completion(r):
    """Segments of a stub and its body without any chat frame."""
    task = make_task(r)
    imports, head = signature(task, r.choice([UNTYPED, TYPED, TYPED, TYPING_MODULE, TYPING_MODULE]))
    stub = imports + head + docstring(r, task, False, r.choice([0, 1, 2, 2, 3]))
    return [segment(stub, SAID), segment(indent(task.body).rstrip("\n") + "\n<|endoftext|>", ANSWER)]


def stub_turns(r):
    task = make_task(r)
    imports, head = signature(task, r.choice([UNTYPED, TYPED, TYPED, TYPING_MODULE, TYPING_MODULE]))
    question = r.choice(STUBS).format(stub=imports + head + docstring(r, task, False, r.choice([0, 1, 2, 2, 3])))
    return [Turn("user", question), Turn("assistant", f"```python\n{imports}{head}{indent(task.body)}```", plan(r, task))]


def request_turns(r):
    """A request with a function name, or without one: then the family's first name is used."""
    task = make_task(r)
    anonymous = r.random() < 0.25
    if anonymous:
        task = dataclasses.replace(task, name=task.family["names"][0])
    question = r.choice(ANONYMOUS if anonymous else REQUESTS).format(
        name=task.name, args=", ".join(task.args), np=task.phrase, ad=describe_arguments(task))
    if not anonymous and r.random() < 0.3:
        values, result = example(r, task)
        question += f" Example: {call(task, values)} gives {result!r}."
    if r.random() < 0.15:
        question += " Only give the code."
    code = signature(task, UNTYPED)[1] + indent(task.body)
    return [Turn("user", question), Turn("assistant", _block(r, question, code), plan(r, task))]


def held_request(r, task):
    """A request in a wording that no training document uses."""
    return r.choice(HELD_REQUESTS).format(name=task.name, args=", ".join(task.args), np=task.phrase, ad=describe_arguments(task))


def any_function(r):
    """Source text of a random function."""
    task = make_task(r)
    imports, head = signature(task, r.choice([UNTYPED, TYPED, TYPING_MODULE]))
    return task, imports + head + indent(task.body)


def other_function_name(r, task):
    while True:
        name = r.choice(families.PREFIXES) + r.choice(task.family["names"])
        if not families.held_name(name):
            return name
