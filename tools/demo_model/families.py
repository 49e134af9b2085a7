"""Coding task families: data from corpus/*.toml, turned into tasks with names, arguments, values and a runnable body.

A family gives base names, argument types, phrases for what is returned (the last one is held out of training; wordings_*.toml
add more for training), the body and a plan. In phrases and bodies the arguments are written A0, A1, ... Types are one letter each:

    L list of int       l non-empty list    p positive ints    W list of words   w non-empty list of words   V list of lists
    S string            s non-empty word    T sentence         M matrix          Q square matrix
    D dict str -> int   d non-empty dict    N int 0..20        n int 1..12       Z int -20..20               Y int 10..9999

Other letters name the Python type only; their values come from the family's own maker (`values`).
Held out: the last phrase of every family, one sixth of the decorated function names, one seventh of the combinations of parts
of the parametric families.
"""
import copy
import dataclasses
import re

import words
from words import VALUES, crc

PYTHON_TYPE = {"L": "list[int]", "l": "list[int]", "p": "list[int]", "W": "list[str]", "w": "list[str]", "V": "list[list[int]]",
               "S": "str", "s": "str", "T": "str", "U": "str", "P": "str", "B": "str", "R": "str", "c": "str",
               "M": "list[list[int]]", "Q": "list[list[int]]", "D": "dict[str, int]", "d": "dict[str, int]",
               "N": "int", "n": "int", "Z": "int", "Y": "int", "J": "int", "K": "int", "i": "int"}
ARGUMENTS = words.load("arguments")
PARTS = words.load("parts")
PLAIN_FILES = ("basics", "basics_text", "lists", "list_pairs", "numbers", "strings", "collections")
PARAMETRIC_FILES = ("parametric_numbers", "parametric")
PLAIN_WORDINGS, PARAMETRIC_WORDINGS = ("wordings_numbers", "wordings_lists", "wordings_text"), ("wordings_parametric",)
SYNONYMS = words.load("synonyms")


def _fill(text, values):
    return re.sub(r"\$\{(\w+)\}", lambda m: values[m.group(1)], text)


def first_name(family):
    """The first name of a family, of its first variant where the name depends on it."""
    return _fill(family["names"], family.get("variants", [{}])[0]).split()[0]


def _load(files, wordings):
    """The families of the files, with their further wordings before the last phrase, which is held out."""
    families = [f for name in files for f in words.load(name)["family"]]
    more = {key: phrases for name in wordings for key, phrases in words.load(name).items()}
    for f in families:
        f["phrases"][-1:-1] = more.pop(first_name(f))
    if more:
        raise ValueError(f"wordings of no family: {', '.join(more)}")
    return families


FIXED = [f | {"names": f["names"].split()} for f in _load(PLAIN_FILES, PLAIN_WORDINGS)]
PARAMETRIC = _load(PARAMETRIC_FILES, PARAMETRIC_WORDINGS)
PARAMETRIC_WEIGHTS = [f["weight"] for f in PARAMETRIC]
FIXED_SHARE = 0.62
SYNONYM_SHARE = 0.35
PREFIXES = ["get_", "compute_", "calc_", "find_", "my_", "do_", "make_", "the_"]
SUFFIXES = ["_of", "_fn", "_value", "_result", "_v2", "_from", "_func", "_helper", "_all", "_new"]


def held_name(name):
    return crc(name) % 6 == 0


def held_combination(key):
    return crc(key) % 7 == 0


@dataclasses.dataclass
class Task:
    family: dict
    number: int
    name: str
    args: list
    phrase: str
    first_phrase: str
    body: str
    plan: str

    @property
    def hints(self):
        return [PYTHON_TYPE[t] for t in self.family["types"]]


# ------------------------------------------------------------------------------------------------ values of arguments
def _ints(r, low=0, high=7, a=-20, b=30):
    n = r.randint(low, high)
    if n and r.random() < 0.35:
        base = [r.randint(max(a, -3), min(b, 9)) for _ in range(3)]
        return [r.choice(base) for _ in range(n)]
    return [r.randint(a, b) for _ in range(n)]


def _dictionary(r, low):
    return {r.choice(VALUES): r.randint(-9, 40) for _ in range(r.randint(low, 5))}


def _matrix(r, rows, columns):
    return [[r.randint(-5, 12) for _ in range(columns)] for _ in range(rows)]


def _square(r):
    n = r.randint(1, 3)
    return _matrix(r, n, n)


_BY_TYPE = {
    "L": _ints,
    "l": lambda r: _ints(r, 1),
    "p": lambda r: _ints(r, 1, 6, 1, 30),
    "S": lambda r: r.choice(VALUES) if r.random() < 0.9 else "",
    "s": lambda r: r.choice(VALUES),
    "T": lambda r: " ".join(r.choice(VALUES) for _ in range(r.randint(2, 5))),
    "W": lambda r: [r.choice(VALUES) for _ in range(r.randint(0, 6))],
    "w": lambda r: [r.choice(VALUES) for _ in range(r.randint(1, 6))],
    "N": lambda r: r.randint(0, 20),
    "n": lambda r: r.randint(1, 12),
    "i": lambda r: r.randint(1, 12),
    "Z": lambda r: r.randint(-20, 20),
    "Y": lambda r: r.randint(10, 9999),
    "D": lambda r: _dictionary(r, 0),
    "d": lambda r: _dictionary(r, 1),
    "M": lambda r: _matrix(r, r.randint(1, 3), r.randint(1, 4)),
    "Q": _square,
    "V": lambda r: [_ints(r, 0, 3) for _ in range(r.randint(0, 4))],
}


def _sorted_search(r):
    items = sorted(set(_ints(r, 0, 8)))
    return [items, r.choice(items) if items and r.random() < 0.6 else r.randint(-20, 30)]


def _rank(r):
    items = _ints(r, 2)
    return [items, r.randint(1, len(items))]


def _member(r):
    items = _ints(r, 0, 8, 0, 6)
    return [items, r.choice(items) if items and r.random() < 0.8 else r.randint(-3, 9)]


def _palindrome_number(r):
    form = r.choice(["{0}{1}{0}", "{0}{1}{1}{0}", "{0}{1}{2}"])
    return [int(form.format(r.randint(1, 9), r.randint(0, 9), r.randint(0, 9)))]


def _clamp(r):
    low = r.randint(-10, 10)
    return [r.randint(-20, 20), low, low + r.randint(0, 10)]


def _anagram(r):
    word = r.choice(VALUES)
    letters = list(word)
    r.shuffle(letters)
    return [word, "".join(letters) if r.random() < 0.6 else r.choice(VALUES)]


def _prefix(r):
    word = r.choice(VALUES)
    k = r.randint(0, len(word))
    return [word, word[:k] + r.choice(VALUES)[k:]]


def _character(r):
    word = r.choice(VALUES)
    return [word, r.choice(word) if r.random() < 0.8 else "z"]


def _parentheses(r):
    if r.random() < 0.5:
        return ["".join(r.choice("()") for _ in range(r.randint(0, 7)))]
    return [r.choice(["", "()", "(())", "()()", "(()())", "((()))()", "(()", "())("])]


def _distinct_values(r):
    keys = list(dict.fromkeys(r.choice(VALUES) for _ in range(r.randint(0, 4))))
    return keys, r.sample(range(-9, 40), len(keys))


def _column(r):
    matrix = _BY_TYPE["M"](r)
    return [matrix, r.randint(0, len(matrix[0]) - 1)]


_ROMAN = "I II III IV V VI VII IX X XI XIV XIX XX XL XLIV LX XC XCIX C CXX LXXV".split()
_BY_NAME = {
    "sortedsearch": _sorted_search, "kth": _rank, "member": _member, "palnum": _palindrome_number, "clamp": _clamp,
    "anagram": _anagram, "prefix": _prefix, "char": _character, "parens": _parentheses, "col": _column,
    "small": lambda r: [r.randint(2, 200)],
    "year": lambda r: [r.choice([1900, 2000, 2100, 2024, 2023, 1996, 2400, r.randint(1800, 2200)])],
    "binary": lambda r: [bin(r.randint(0, 200))[2:]],
    "roman": lambda r: [r.choice(_ROMAN)],
    "power": lambda r: [r.randint(-5, 9), r.randint(0, 5)],
    "runs": lambda r: ["".join(r.choice("abcxyz") * r.randint(1, 4) for _ in range(r.randint(1, 4)))],
    "mixed": lambda r: ["".join(r.choice("abcDEFgh12 345XY") for _ in range(r.randint(0, 9)))],
    "snake": lambda r: ["_".join(r.choice(VALUES) for _ in range(r.randint(1, 3)))],
    "noclash": lambda r: [dict(zip(*_distinct_values(r)))],
    "noclash2": lambda r: list(_distinct_values(r)),
}


def arguments(r, family):
    maker = family.get("values")
    return _BY_NAME[maker](r) if maker else [_BY_TYPE[t](r) for t in family["types"]]


# ------------------------------------------------------------------------------------------------ parametric families
def _letters(r):
    letters = "".join(sorted(r.sample("abcdefghilmnoprstuwy", r.randint(2, 4))))
    return ", ".join(f"'{c}'" for c in letters[:-1]) + f" and '{letters[-1]}'", letters


def _part(r, kind, variable):
    text, code = r.choice(PARTS[kind])
    k = r.randint(-9, 30)
    values = {"x": variable, "k": k, "m": r.randint(2, 12), "h": k + r.randint(2, 20), "c": r.choice("abcdeghilmnoprstuw"),
              "j": r.randint(2, 7), "t": r.randint(2, 4)}

    def fill(s):
        return re.sub(r"\$(\w)", lambda m: str(values[m.group(1)]), s)
    return fill(text), fill(code)


_SIMPLE_SLOTS = {
    "integer": lambda r: str(r.randint(-5, 20)), "small": lambda r: str(r.randint(2, 9)), "few": lambda r: str(r.randint(2, 5)),
    "low": lambda r: str(r.randint(3, 9)), "high": lambda r: str(r.randint(10, 18)), "mark": lambda r: r.choice("_-+"),
    "letter": lambda r: r.choice("abcdefghilmnoprstuwy"),
    "sound": lambda r: r.choice(["Fizz", "Buzz", "Foo", "Bar", "Ping", "Pong", "Tick", "Tock"]),
}


def _draw_slots(r, family):
    values, taken = {}, set()
    for name, kind in family["slots"].items():
        for _ in range(100):  # two slots of one kind differ
            if kind == "letters":
                text, code = _letters(r)
            elif kind in PARTS:
                text, code = _part(r, kind, family.get("variable", "x"))
            else:
                text = code = _SIMPLE_SLOTS[kind](r)
            if (kind, text) not in taken:
                break
        taken.add((kind, text))
        values[name], values[name + "_code"] = text, code
    return values


def expand(r, family):
    """A parametric family with its slots and variant filled in; `key` identifies the combination."""
    values = _draw_slots(r, family)
    key = [family["body"]] + [values[name] for name in family["slots"]]
    if "variants" in family:
        variant = r.choice(family["variants"])
        values.update(variant)
        key.append(tuple(variant.values()))
    return {"names": _fill(family["names"], values).split(), "types": family["types"], "returns": family["returns"],
            "phrases": [_fill(p, values) for p in family["phrases"]], "body": _fill(family["body"], values),
            "plan": _fill(family["plan"], values), "key": tuple(key) if family["slots"] else None}


# ------------------------------------------------------------------------------------------------ tasks
def _pick(r):
    if r.random() < FIXED_SHARE:
        return r.randrange(len(FIXED))
    return len(FIXED) + r.choices(range(len(PARAMETRIC)), PARAMETRIC_WEIGHTS)[0]


def n_families():
    return len(FIXED) + len(PARAMETRIC)


def _function_name(r, family, held):
    for _ in range(100):
        name = r.choice(family["names"])
        if not held and r.random() < 0.2:
            name = "_".join(r.choice(VALUES) if r.random() < 0.6 else words.made_up_word(r) for _ in range(r.randint(1, 3)))
        k = r.random()
        if k < 0.25:
            name = r.choice(PREFIXES) + name
        elif k < 0.45:
            name += r.choice(SUFFIXES)
        if held_name(name) == held:
            return name
    return None


def _argument_names(r, family, name, held):
    args, inner = [], set(re.findall(r"[A-Za-z_]\w*", family["body"]))  # no argument hides a name that the body uses
    for t in family["types"]:
        kind = ARGUMENTS[PYTHON_TYPE[t].replace("[", "_").replace("]", "").replace(", ", "_")]
        pool = kind["common"] if held or r.random() > 0.3 else kind["other"]
        args.append(r.choice([a for a in pool if a not in args and a not in inner and a != name]))
    return args


def rename(text, args):
    for i, a in enumerate(args):
        text = text.replace(f"A{i}", a)
    return text


def _synonyms():
    """{word: its group} for families with lists of numbers or of strings, and for all others."""
    return [{w: group for name in ("any", *more) for group in SYNONYMS[name] for w in group}
            for more in ((), ("numbers",), ("strings",))]


_OTHERS, _OF_NUMBERS, _OF_STRINGS = _synonyms()
_WORD = re.compile(r"[a-z]+")


def _training_phrase(r, family):
    """One of the wordings for training, sometimes with words exchanged for synonyms; never the held-out wording."""
    phrase = r.choice(family["phrases"][:-1])
    if r.random() >= SYNONYM_SHARE:
        return phrase
    types = set(family["types"])
    table = _OTHERS
    if types & set("WwLlp"):
        table = _OF_STRINGS if types <= set("WwN") else _OF_NUMBERS if types <= set("LlpNZn") else _OTHERS

    def exchange(m):
        group = table.get(m.group())
        return r.choice(group) if group else m.group()
    varied = _WORD.sub(exchange, phrase)
    return phrase if varied == family["phrases"][-1] else varied


def make_task(r, held=False, number=None):
    """A random task; `held` draws only held-out names, phrases and combinations, otherwise none of them."""
    for attempt in range(200):
        n = _pick(r) if number is None else number
        family = FIXED[n] if n < len(FIXED) else expand(r, PARAMETRIC[n - len(FIXED)])
        key = family.get("key")
        if key is not None and attempt < 60 and held_combination(key) != held:
            continue
        name = _function_name(r, family, held)
        if name is None:
            continue
        args = _argument_names(r, family, name, held)
        phrase = family["phrases"][-1] if held else _training_phrase(r, family)
        return Task(family, n, name, args, *(rename(s, args) for s in (phrase, family["phrases"][0], family["body"], family["plan"])))
    raise RuntimeError(f"no task for family {number} with held={held}")


def indent(body):
    return "".join("    " + line + "\n" for line in body.split("\n"))


_compiled = {}
_MAX_COMPILED = 20000


def example(r, task):
    """Arguments and the result of the task's body on them."""
    key = (task.body, tuple(task.args))
    if key not in _compiled:
        if len(_compiled) > _MAX_COMPILED:
            _compiled.clear()
        space = {}
        exec(f"def f({', '.join(task.args)}):\n" + indent(task.body), space)
        _compiled[key] = space["f"]
    values = arguments(r, task.family)
    return values, _compiled[key](*copy.deepcopy(values))
