"""Questions and answers of one turn: facts about freelunch, small talk, what the model does not know, sums."""
import words
from words import ANIMALS, CITIES, COLOURS, FOODS, NAMES, crc

FACTS = words.load("facts")
TALK = words.load("talk")
_UNKNOWN_THINGS = words.VALUES + words.THINGS + words.LISTS["rare"]


def fact_questions(fact, held):
    """All wordings of one fact: the trained ones, or the held-out ones."""
    frames = FACTS["held_frames"] if held else FACTS["frames"]
    own = fact.get("questions", [])
    return [f.format(x=fact["topic"]) for f in frames if "topic" in fact] + (own[-1:] if held else own[:-1])


def fact(r):
    chosen = r.choice(FACTS["fact"])
    own = chosen.get("questions", [])[:-1]
    question = r.choice(own) if own and r.random() < 0.5 else r.choice(fact_questions(chosen, False))
    if r.random() < 0.2:
        question = r.choice(FACTS["openings"]) + question
    if r.random() < 0.12:
        question = question.lower()
    if r.random() < 0.08:
        question = question.rstrip("?.!")
    return question, chosen["answer"], r.choice(["A question I know the answer to.", "This is about freelunch or models. I know this."])


def two_facts(r):
    a, b = r.sample([f for f in FACTS["fact"] if "topic" in f], 2)
    question = r.choice(["What are {a} and {b}?", "Explain {a} and {b}.", "Tell me about {a} and about {b}.", "First explain {a}, then {b}."])
    return question.format(a=a["topic"], b=b["topic"]), f"{a['answer']} {b['answer']}", f"Two questions: first {a['topic']}, then {b['topic']}."


def small_talk(r):
    chosen = r.choices(TALK["talk"], [4, 3] + [1] * (len(TALK["talk"]) - 2))[0]
    question = r.choice(chosen["questions"])
    name = words.made_up_word(r).capitalize() if r.random() < 0.4 else r.choice(NAMES)
    question = question.format(w=name)
    answer = chosen["answers"][crc(question) % len(chosen["answers"])].format(w=name)
    return question, answer, "A short friendly answer."


def unknown(r):
    thing = words.made_up_word(r) if r.random() < 0.25 else r.choice(_UNKNOWN_THINGS)
    question = r.choice(TALK["unknown"]).format(
        c=r.choice(CITIES), c2=r.choice(CITIES), w=r.choice(NAMES), y=r.randint(1800, 2025), x=thing, a=r.choice(ANIMALS),
        o=r.choice(COLOURS), f=r.choice(FOODS))
    return question, TALK["unknown_answer"], "I do not know this, so I say so."


def simple(r):
    """(question, answer, thought)"""
    k = r.random()
    if k < 0.58:
        return fact(r)
    if k < 0.63:
        return two_facts(r)
    return small_talk(r) if k < 0.82 else unknown(r)


# ------------------------------------------------------------------------------------------------ sums
_ASK = ["What is {e}?", "Compute {e}.", "{e} = ?", "Calculate {e}", "How much is {e}?", "Please compute {e}.", "What's {e}?", "{e}",
        "Can you compute {e}?", "what is {e}"]


def _written(r, a, b, signs):
    sign = r.choice(signs)
    return f"{a}{sign}{b}" if sign in "+-*/" and r.random() < 0.4 else f"{a} {sign} {b}"


def _column_steps(a, b, sign):
    """The digits from the right, as one adds or subtracts on paper (a >= b when subtracting)."""
    steps, carry = [], 0
    x, y = str(a)[::-1], str(b)[::-1]
    for i in range(max(len(x), len(y))):
        p, q = (int(s[i]) if i < len(s) else 0 for s in (x, y))
        if sign == "+":
            total = p + q + carry
            steps.append(f"{p} + {q}" + (f" + {carry}" if carry else "") + f" = {total}")
            carry = total // 10
        else:
            total = p - q - carry
            steps.append(f"{p} - {q}" + (f" - {carry}" if carry else "") + f" = {total}" + (f", borrow, {total + 10}" if total < 0 else ""))
            carry = int(total < 0)
    return "Digits from the right: " + ", ".join(steps) + "."


def _sum(r):
    top = 10 ** r.choice([1, 1, 2, 2, 2, 3, 3]) - 1
    a, b = r.randint(0, top), r.randint(0, top)
    return _written(r, a, b, ["+", "+", "plus"]), f"{a} + {b} = {a + b}", f"{_column_steps(a, b, '+')} Result {a + b}."


def _difference(r):
    top = 10 ** r.choice([1, 2, 2, 3, 3]) - 1
    a, b = sorted((r.randint(0, top), r.randint(0, top)), reverse=True)
    if r.random() < 0.12:
        steps = f"{b} is smaller than {a}, so the result is negative. " + _column_steps(a, b, "-") if a != b else _column_steps(a, b, "-")
        return _written(r, b, a, ["-", "minus"]), f"{b} - {a} = {b - a}", f"{steps} Result {b - a}."
    return _written(r, a, b, ["-", "-", "minus"]), f"{a} - {b} = {a - b}", f"{_column_steps(a, b, '-')} Result {a - b}."


def _product(r):
    a, b = r.randint(0, 12), r.randint(0, 12)
    return _written(r, a, b, ["*", "times", "x"]), f"{a} * {b} = {a * b}", f"Multiply {a} and {b}. The result is {a * b}."


def _quotient(r):
    a, b = r.randint(1, 12), r.randint(1, 12)
    return _written(r, a * b, b, ["/", "divided by"]), f"{a * b} / {b} = {a}", f"{b} times {a} is {a * b}, so the result is {a}."


def _word_problem(r):
    w, f = r.choice(NAMES), r.choice(FOODS + words.THINGS)
    a, b = r.randint(2, 40), r.randint(1, 30)
    if r.random() < 0.5:
        return f"{w} has {a} {f} and buys {b} more. How many {f} does {w} have?", f"{w} has {a + b} {f}.", f"Add: {a} + {b} = {a + b}."
    a, b = max(a, b), min(a, b)
    return f"{w} has {a} {f} and gives away {b}. How many {f} are left?", f"{w} has {a - b} {f} left.", f"Subtract: {a} - {b} = {a - b}."


def _compare(r):
    a, b = r.randint(0, 200), r.randint(0, 200)
    if r.random() < 0.5:
        answer = f"{max(a, b)} is larger." if a != b else "They are equal."
        return f"Which number is larger, {a} or {b}?", answer, f"Compare {a} and {b}."
    return f"Is {a} even or odd?", f"{a} is {'odd' if a % 2 else 'even'}.", f"The last digit of {a} is {a % 10}."


def arithmetic(r):
    """(question, answer, thought)"""
    make = r.choices([_sum, _difference, _product, _quotient, _word_problem, _compare], [32, 28, 16, 8, 9, 7])[0]
    question, answer, thought = make(r)
    if make in (_word_problem, _compare):
        return question, answer, thought
    return r.choice(_ASK).format(e=question), answer, thought
