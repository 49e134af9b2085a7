"""Facts early, other talk or filler, then a question: short chats and documents of up to thousands of tokens."""
import re

import coding
import talk
import words
from template import GIVEN, Turn
from words import ANIMALS, CITIES, COLOURS, FOODS, MONTHS, NAMES


def _person(r):
    return r.choice(NAMES) if r.random() < 0.7 else words.made_up_word(r).capitalize()


def _place(r):
    return r.choice(CITIES) if r.random() < 0.7 else words.made_up_word(r).capitalize()


def _listed(values):
    """Mostly a value from the list, sometimes any word: what is recalled must be read, not guessed."""
    return lambda r: r.choice(values) if r.random() < 0.65 else words.lower_word(r)


KINDS = [
    ("pass-key", lambda r: str(r.randint(10000, 99999))), ("locker number", lambda r: str(r.randint(100, 999))),
    ("favourite colour", _listed(COLOURS)), ("dog's name", _person), ("home town", _place),
    ("birthday", lambda r: f"{r.randint(1, 28)} {r.choice(MONTHS)}"), ("code word", words.lower_word), ("name", _person),
    ("room number", lambda r: str(r.randint(1, 400))), ("lucky number", lambda r: str(r.randint(1, 99))),
    ("favourite animal", _listed(ANIMALS)), ("secret number", lambda r: str(r.randint(1000, 9999))),
    ("phone number", lambda r: f"{r.randint(100, 999)}-{r.randint(1000, 9999)}"), ("favourite food", _listed(FOODS)),
    ("password", words.code_word), ("favourite colour", lambda r: r.choice(COLOURS)), ("cat's name", _person),
    ("favourite city", _place), ("job", _listed(words.JOBS)), ("email", lambda r: f"{words.lower_word(r)}@{words.lower_word(r)}.com"),
    ("order number", lambda r: "".join(r.choice("ABCDEFGHKLMNPQRSTX") for _ in range(2)) + str(r.randint(100, 9999))),
    ("secret word", words.lower_word), ("favourite word", words.lower_word), ("teacher", _person), ("sister's name", _person),
]
_STATED = ["{O} {k} is {v}.", "Remember that {o} {k} is {v}.", "Important: {o} {k} is {v}.", "{O} {k} is {v}. Remember it.",
           "Please note that {o} {k} is {v}.", "Do not forget: {o} {k} is {v}.", "By the way, {o} {k} is {v}."]
_TOLD = ["{O} {k} is {v}.", "Please remember: {o} {k} is {v}.", "{O} {k} is {v}. Remember it.", "Keep in mind that {o} {k} is {v}.",
         "Remember that {o} {k} is {v}.", "{O} {k} is {v}, please remember that.", "Note: {o} {k} is {v}."]
_CONFIRMED = ["I will remember that {o} {k} is {v}.", "Okay, {o} {k} is {v}.", "Got it: {o} {k} is {v}."]
_INTRODUCED = ["Hi, I am {v}.", "Hello, my name is {v}.", "Hello! I'm {v}.", "Hey, {v} here.", "I am {v} and I live in {c}.",
               "Hi, my name is {v}, I come from {c}."]
_ASKED = ["What is {o} {k}?", "Do you remember {o} {k}?", "Tell me {o} {k}.", "What was {o} {k}?", "Can you tell me {o} {k} again?",
          "Please tell me {o} {k}.", "I forgot {o} {k}. What is it?", "what is {o} {k}", "And what is {o} {k}?", "What did I say {o} {k} is?"]
_HEARD = ["I see.", "Okay.", "Interesting.", "That sounds nice."]
_ABSENT_SHARE = 0.06
_BROKEN_OFF_SHARE = 0.2  # of the short chats end before the question, half of those with the first answer: each answer is sometimes the last
_SHORT = 600  # tokens: longer documents are for recall, and all of them ask
_OPENINGS = ["Read this text: ", "Here is a text. ", "Please read: "]


def _yours(owner):
    return "your" if owner == "my" else owner


def _fill(r, forms, owner, kind, value=""):
    return r.choice(forms).format(o=owner, O=owner[0].upper() + owner[1:], k=kind, v=value)


def _draw_facts(r):
    facts = {}
    for kind, make in r.sample(KINDS, r.randint(1, 4)):
        owner = "my" if r.random() < 0.6 or kind == "name" else _person(r) + "'s"
        facts[(owner, kind)] = make(r)
    if r.random() < 0.3 and len(facts) >= 2:  # the same kind for two people
        kind, make = r.choice(KINDS)
        if kind != "name":
            for person in r.sample(NAMES, 2):
                facts[(person + "'s", kind)] = make(r)
    return [(o, k, v) for (o, k), v in facts.items()]


def _hidden_in_text(r, facts, length):
    """One text of about `length` tokens with the facts at random places, more of them early; without an opening."""
    places = sorted(r.random() ** 1.5 for _ in facts)
    parts, at = [], 0.0
    for (owner, kind, value), place in zip(facts, places):
        if length > 60 and place > at:
            parts.append(words.filler(r, int(length * (place - at))))
        at = place
        parts.append(_fill(r, _STATED, owner, kind, value))
    if length > 60:
        parts.append(words.filler(r, int(length * (1 - at))))
    return " ".join(parts)


def _told_in_chat(r, facts, length):
    turns = []
    for owner, kind, value in facts:
        if (owner, kind) == ("my", "name") and r.random() < 0.4:
            turns += [Turn("user", r.choice(_INTRODUCED).format(v=value, c=_place(r))),
                      Turn("assistant", f"Hello {value}! How can I help you?", "A short friendly answer.")]
            continue
        turns.append(Turn("user", _fill(r, _TOLD, owner, kind, value)))
        turns.append(Turn("assistant", _fill(r, _CONFIRMED, _yours(owner), kind, value),
                          f"A fact to remember: {_yours(owner)} {kind} is {value}."))
    left = length
    while left > 40:
        if r.random() < 0.35 and left > 150:
            user, answer = coding.request_turns(r)
            user.kind = GIVEN
            turns += [user, answer]
            left -= 130
        elif r.random() < 0.5:
            question, answer, thought = talk.arithmetic(r) if r.random() < 0.6 else talk.simple(r)
            turns += [Turn("user", question, kind=GIVEN), Turn("assistant", answer, thought)]
            left -= 40
        else:
            part = min(left, r.choice([30, 60, 120, 300, 800, 2000]))
            turns += [Turn("user", words.filler(r, part), kind=GIVEN),
                      Turn("assistant", r.choice(_HEARD), "The user tells me something.")]
            left -= part + 15
    return turns


def _question(r, facts):
    if r.random() < _ABSENT_SHARE:
        owner = "my" if r.random() < 0.6 else _person(r) + "'s"
        kind = r.choice([k for k, _ in KINDS if all(k != f[1] for f in facts) and (owner == "my" or k != "name")])
        return _fill(r, _ASKED, owner, kind), f"You did not tell me {_yours(owner)} {kind}.", f"The chat does not say {_yours(owner)} {kind}."
    owner, kind, value = r.choice(facts)
    yours = _yours(owner)
    return (_fill(r, _ASKED, owner, kind), f"{yours[0].upper() + yours[1:]} {kind} is {value}.", f"The chat says that {yours} {kind} is {value}.")


def recall(r, length):
    """Turns of about `length` tokens; most end with one to three questions about facts told before."""
    facts = _draw_facts(r)
    turns, text = [], None
    if r.random() < 0.5:
        text = _hidden_in_text(r, facts, length)
        if r.random() < 0.4:  # always with an opening: a bare fact is told, and is confirmed in its own words
            turns = [Turn("user", r.choice(_OPENINGS) + text, kind=GIVEN),
                     Turn("assistant", r.choice(["I have read the text.", "Okay, I will remember it."]), "A text to read and to remember.")]
            text = None
        elif r.random() < 0.75:
            text = r.choice(_OPENINGS) + text
    else:
        turns = _told_in_chat(r, facts, length)
    if turns and length < _SHORT and r.random() < _BROKEN_OFF_SHARE:
        return turns[:2 * r.choice([1, r.randint(1, len(turns) // 2)])]
    for _ in range(r.choice([1, 1, 2, 3])):
        question, answer, thought = _question(r, facts)
        if text is not None:
            question, text, kind = text + r.choice(["\n\n", " ", "\n"]) + question, None, GIVEN
            turns.append(Turn("user", question, kind=kind))
        else:
            turns.append(Turn("user", question))
        turns.append(Turn("assistant", answer, thought))
    return turns


def probe(r, length, count_tokens):
    """(turns, value): one fact, at least `length` tokens of filler, one question; for measuring."""
    measured = ("pass-key", "locker number", "secret number", "home town", "phone number", "dog's name", "favourite colour", "code word")
    kind, make = r.choice([k for k in KINDS if k[0] in measured])
    value, fill = make(r), words.filler_sentence(r)
    while count_tokens(fill) < length:
        fill += " " + words.filler(r, max(words.FILLER_SENTENCE_TOKENS, length - count_tokens(fill)))
    told, asked = f"Remember that my {kind} is {value}.", f"What is my {kind}?"
    if r.random() < 0.5:
        return [Turn("user", f"{told} {fill}\n\n{asked}")], value
    return [Turn("user", told), Turn("assistant", f"I will remember that your {kind} is {value}."), Turn("user", fill),
            Turn("assistant", "I see."), Turn("user", asked)], value


def told(r):
    """(message, right answers): one fact, told as a message of its own; for measuring."""
    kind, make = r.choice([k for k in KINDS if k[0] != "name"])
    owner, value = "my" if r.random() < 0.6 else _person(r) + "'s", make(r)
    return _fill(r, _TOLD, owner, kind, value), [form.format(o=_yours(owner), k=kind, v=value) for form in _CONFIRMED]


def holds(answer, value):
    """Whether the answer names the value as a whole word."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", answer) is not None
