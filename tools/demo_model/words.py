"""Words, names and free text: everything the generator draws vocabulary from."""
import pathlib
import tomllib
import zlib

CORPUS = pathlib.Path(__file__).parent / "corpus"


def load(name):
    with open(CORPUS / f"{name}.toml", "rb") as f:
        return tomllib.load(f)


LISTS = {name: text.split() for name, text in load("words").items()}
VALUES, NAMES, CITIES, COLOURS = (LISTS[k] for k in ("values", "names", "cities", "colours"))
ANIMALS, FOODS, PLACES, ADJECTIVES = (LISTS[k] for k in ("animals", "foods", "places", "adjectives"))
VERBS, MONTHS, THINGS, JOBS = (LISTS[k] for k in ("verbs", "months", "things", "jobs"))
PLAIN = sorted({w for k, v in LISTS.items() if k not in ("names", "cities", "months", "languages") for w in v})
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
CODE_ALPHABET = ALPHABET + ALPHABET.upper() + "0123456789"


def crc(value):
    """A stable hash that decides what is held out and which of several equal answers a question gets."""
    return zlib.crc32(repr(value).encode())


def made_up_word(r):
    """A pronounceable word that no list holds, so that copying is learned for any sequence of tokens."""
    syllables = "".join(r.choice("bcdfghjklmnprstvwz") + r.choice(["", "", "", "r", "l", "h"]) + r.choice("aeiouy")
                        for _ in range(r.randint(1, 4)))
    return syllables + r.choice(["", "", "n", "s", "x", "t", "l", "m", "ck", "nd"])


def code_word(r):
    return "".join(r.choice(CODE_ALPHABET) for _ in range(r.randint(2, 9)))


def any_word(r):
    """A listed word, a made-up one, a name or a code, each with a fair share."""
    k = r.random()
    if k < 0.55:
        return r.choice(PLAIN)
    if k < 0.8:
        return made_up_word(r)
    if k < 0.92:
        return r.choice(NAMES if k < 0.88 else CITIES)
    return code_word(r)


def lower_word(r):
    return r.choice(PLAIN) if r.random() < 0.7 else made_up_word(r)


def phrase(r, low=1, high=3):
    return " ".join(lower_word(r) for _ in range(r.randint(low, high)))


def number(r):
    return str(r.randint(0, 10 ** r.randint(1, 6)))


def free_text(r):
    """Any text at all: words in any order, made-up words, numbers, codes, marks."""
    words = []
    for _ in range(r.randint(1, 24)):
        word = number(r) if r.random() < 0.1 else any_word(r)
        words.append(word + (r.choice(",.!?:;") if r.random() < 0.08 else ""))
    text = " ".join(words)
    if r.random() < 0.3:
        text = text[0].upper() + text[1:]
    if r.random() < 0.3:
        text += r.choice(".!?")
    return text


_CLAUSES = [
    "the {a} {n} {v} near the {p}", "{w} {v} by the {p}", "a {o} {t} was lying in the {p}", "the weather is {a2} today",
    "we saw a {n} behind the {p}", "I bought {k} {f} in {c}", "the {j} of {c} is very {a}", "it rained all day in {c}",
    "she put the {t} on the table", "nobody knew where the {t} was", "they have lived in {c} since {m}",
    "my {t} is {o}", "he wants to be a {j}", "this {t} costs {k} coins", "there are {k} {f} in the {t2}",
    "you can see the {p} from here", "the {n} likes {f}", "her brother is a {j} in {c}", "I think that the {t} is too {a}",
    "our train leaves at {h} o'clock", "the {j} told {w} about the {p}", "every {m} the {n} comes back to the {p}",
]
_JOINTS = [" and ", ", but ", " because ", ", so ", " while ", " when ", " after ", ", although "]


def _clause(r):
    return r.choice(_CLAUSES).format(
        a=r.choice(ADJECTIVES), a2=r.choice(["nice", "cold", "warm", "bad", "fine", "strange", "mild", "good"]),
        n=r.choice(ANIMALS), v=r.choice(VERBS), p=r.choice(PLACES), w=r.choice(NAMES), o=r.choice(COLOURS),
        t=r.choice(THINGS), t2=r.choice(["basket", "box", "bag", "kitchen", "bowl"]), k=r.randint(2, 90),
        f=r.choice(FOODS), c=r.choice(CITIES), j=r.choice(JOBS), m=r.choice(MONTHS), h=r.randint(1, 12))


def natural_sentence(r):
    """A sentence as people write them, made of one or two clauses."""
    text = _clause(r)
    if r.random() < 0.45:
        text += r.choice(_JOINTS) + _clause(r)
    if r.random() < 0.12:
        text = r.choice(["Yesterday ", "In the morning ", "Last year ", "Sometimes ", "Today "]) + text
    return text[0].upper() + text[1:] + r.choice("....!?")


_FILLER = [
    "The {a} {n} {v} near the {p} in {c}.", "In {c} there is a {a} {p} with a {o} door.", "{w} {v} by the {p} until {h} o'clock.",
    "Every {m} the {n} and the {n2} meet at the {p}.", "{w} bought {k} {f} at the {p}.",
    "The {p} of {c} is {a} and the roof is {o}.", "It was a {a} day, and {w} {v} for {k} hours.",
    "{w} and {w2} {v} with the {a} {n}.", "A {o} {n} {v} behind the {p}.",
]


def filler_sentence(r):
    if r.random() < 0.25:
        return natural_sentence(r)
    return r.choice(_FILLER).format(
        a=r.choice(ADJECTIVES), n=r.choice(ANIMALS), n2=r.choice(ANIMALS), v=r.choice(VERBS), p=r.choice(PLACES),
        c=r.choice(CITIES), o=r.choice(COLOURS), w=r.choice(NAMES), w2=r.choice(NAMES), h=r.randint(1, 12),
        m=r.choice(MONTHS), k=r.randint(2, 90), f=r.choice(FOODS))


FILLER_SENTENCE_TOKENS = 14  # mean, for aiming at a length


def filler(r, tokens):
    """About `tokens` tokens of sentences without any fact that a question asks for."""
    return " ".join(filler_sentence(r) for _ in range(max(1, tokens // FILLER_SENTENCE_TOKENS)))
