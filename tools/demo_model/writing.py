"""Stories, copying, and small changes of text and code."""
import re

import words
from coding import any_function, other_function_name
from families import ARGUMENTS, PYTHON_TYPE
from words import ADJECTIVES, ANIMALS, CITIES, COLOURS, FOODS, JOBS, NAMES, PLACES, THINGS

_STORY = ["Tell me a story about {w} and a {a}.", "Write a short story about {w} and a {a}.", "Can you tell a story with {w} and a {a}?",
          "Make up a story about a {a} and {w}.", "Please tell me a story about a {a}.", "Tell a story about {w}.", "Tell me a story.",
          "Write a story about a {a} in {c}.", "I want to hear a story about {w}, the {j}."]
_LONG_STORY = ["Write a long story about {w} and a {a}.", "Tell me a long story.", "Tell me a long story about {w}.",
               "Please write a long story about a {a}.", "Write a very long story about {w}, the {j}."]
_TIMES = ["One day", "The next morning", "A week later", "In the evening", "On a {v} day", "In the spring", "After a while", "Later that year",
          "On the following day", "When the snow was gone", "At night", "Soon after"]
_EPISODES = [
    ["{time} {w} found a {v} {t} near the {p}.", "Nobody knew whose {t} it was.", "The {a} sniffed at it and {verb} around it twice.",
     "{w} gave the {t} to {w2}, the {j2}, who had lost it long ago."],
    ["{time} the {a} was hungry.", "{w} went to the {p} and bought {k} {f}.", "They ate them under a tree and were happy.",
     "Only one was left, and they gave it to a {v} {a2}."],
    ["{time} it began to rain in {c}.", "{w} and the {a} ran to the {p} and waited.", "There they met {w2}, who had a {o} umbrella.",
     "{w2} took them home, and they drank tea until the sun came back."],
    ["{time} the {a} was gone.", "{w} looked for it in the {p} and in the {p2}.", "At last {w2} heard a sound behind the {o} door.",
     "There was the {a}, and beside it slept a small {a2}."],
    ["{time} a letter came for {w}.", "It said that {w2}, the {j2}, needed help in the {p}.", "So {w} took the {t}, and the {a} came along.",
     "They worked for {k} hours, and then everything was done."],
    ["{time} {w} wanted to see the {p2}.", "The way was long, and the {a} grew tired.", "A {v} {j2} called {w2} let them ride on a wagon.",
     "From the hill they could see all of {c}."],
    ["{time} there was a great feast at the {p}.", "{w2} played the {o} flute and the {a} danced.", "{w} told the children about the {v} {t}.",
     "Everybody laughed, and nobody went home before midnight."],
    ["{time} {w} built a house for the {a}.", "It had a {o} roof and a {v} little window.", "{w2} brought a {t} as a present.",
     "The {a} liked it so much that it slept there every night."],
    ["{time} {w} and {w2} had a quarrel about a {t}.", "They did not speak for {k} days.", "Then the {a} carried the {t} to the {p} and hid it there.",
     "When they found it together, they had to laugh and were friends again."],
    ["{time} the {a} learned to open the {o} door.", "It walked through the {p} and greeted everyone.", "The {j2} gave it some {f}.",
     "{w} was proud and told {w2} all about it."],
]
LONG_EPISODES = (4, 9)


def story(r):
    long = r.random() < 0.4
    w, w2 = r.sample(NAMES, 2)
    a, a2 = r.sample(ANIMALS, 2)
    c, j = r.choice(CITIES), r.choice(JOBS)
    question = r.choice(_LONG_STORY if long else _STORY).format(w=w, a=a, c=c, j=j)
    if r.random() < 0.1:
        question = question.rstrip(".?") + ", please."
    out = [f"Once there was a {r.choice(ADJECTIVES)} {a} in {c}.", f"It lived with {w}, the {j}, in a house near the {r.choice(PLACES)}."]
    for n, episode in enumerate(r.sample(_EPISODES, r.randint(*LONG_EPISODES) if long else r.choice([1, 1, 2, 3]))):
        p, p2 = r.sample(PLACES, 2)
        values = dict(w=w, w2=w2 if r.random() < 0.6 else r.choice([x for x in NAMES if x != w]), a=a, a2=a2, c=c, p=p, p2=p2,
                      j2=r.choice(JOBS), t=r.choice(THINGS), o=r.choice(COLOURS), f=r.choice(FOODS), k=r.randint(2, 9),
                      v=r.choice(ADJECTIVES), verb=r.choice(words.VERBS))
        time = (_TIMES[0] if n == 0 else r.choice(_TIMES)).format(**values)
        out += [s.format(time=time, **values) for s in episode]
    out.append(r.choice([f"From then on {w} and the {a} were never apart.", f"And {w} still talks about it today.",
                         f"That is how {w} and the {a} became famous in {c}."]))
    out.append("And that is the end of the story.")
    if long and r.random() < 0.7:  # paragraphs
        out = [s + "\n" if i and i % 4 == 1 else s for i, s in enumerate(out)]
    text = re.sub(r"\n ", "\n\n", " ".join(out))
    return question, text, f"A story with {w} and a {a}. First a place, then what happens, then an end."


_REPEAT = ["Repeat this: {t}", "Repeat the following text exactly: {t}", "Copy this text: {t}", "Say this again: {t}", "Echo: {t}",
           "Repeat after me: {t}", "Please repeat: {t}", "Repeat: {t}", "repeat this text: {t}", "Write this again: {t}", "Copy: {t}",
           'Say "{t}"', "Repeat exactly:\n\n{t}", "Please copy this: {t}", "Repeat the sentence: {t}", "Can you repeat this? {t}",
           "Say: {t}", "Type this: {t}", "Repeat this sentence: {t}", "Repeat word for word: {t}"]


def _text_to_copy(r):
    k = r.random()
    if k < 0.35:
        return words.free_text(r)
    if k < 0.7:
        return " ".join(words.natural_sentence(r) for _ in range(r.choice([1, 1, 1, 2, 3])))
    if k < 0.85:
        return words.filler(r, r.choice([14, 28, 42, 84, 140]))
    return " ".join(words.number(r) if r.random() < 0.3 else r.choice(words.VALUES) for _ in range(r.randint(1, 15)))


def repeat(r):
    text = _text_to_copy(r)
    return r.choice(_REPEAT).format(t=text), text, "Copy the text without any change."


def _many_times(r):
    w, n = words.lower_word(r), r.randint(2, 8)
    return r.choice([f"Say {w} {n} times.", f"Write the word {w} {n} times."]), " ".join([w] * n), f"{n} times {w}."


def _count(r):
    a, n = r.randint(0, 60), r.randint(3, 40)
    question = r.choice([f"Count from {a} to {a + n}.", f"List the numbers from {a} to {a + n}.", f"Write all numbers from {a} to {a + n}."])
    return question, ", ".join(map(str, range(a, a + n + 1))), f"Start at {a}, end at {a + n}."


def _spell(r):
    w = words.lower_word(r)
    return r.choice([f"Spell the word {w}.", f"How do you spell {w}?", f"Spell {w}"]), "-".join(w), "Take the letters one by one."


def _as_list(r):
    ws = [words.lower_word(r) for _ in range(r.randint(3, 8))]
    return "Write these words as a list, one in each line: " + ", ".join(ws), "\n".join("- " + w for w in ws), "One line for each word."


def _upper(r):
    ws = [r.choice(words.VALUES) for _ in range(r.randint(3, 8))]
    return "Write this in upper case: " + " ".join(ws), " ".join(ws).upper(), "Change each letter."


def _rename(r):
    task, code = any_function(r)
    if r.random() < 0.5:
        kind = PYTHON_TYPE[task.family["types"][0]].replace("[", "_").replace("]", "").replace(", ", "_")
        pool = [a for a in ARGUMENTS[kind]["common"] + ["thing", "my_value", "input_value"] if not re.search(rf"\b{a}\b", code)]
        old, new = task.args[0], r.choice(pool)
        changed = re.sub(rf"\b{old}\b", new, code)
        return (f"Rename the variable {old} to {new} in this code:\n\n```python\n{code}```", f"```python\n{changed}```",
                f"Copy the code and write {new} for {old}.")
    new = other_function_name(r, task)
    changed = code.replace(f"def {task.name}(", f"def {new}(")
    return (f"Rename the function {task.name} to {new}:\n\n```python\n{code}```", f"```python\n{changed}```",
            f"Copy the code and write {new} for {task.name}.")


def rewriting(r):
    """(question, answer, thought)"""
    make = r.choices([repeat, _many_times, _count, _spell, _as_list, _upper, _rename], [52, 6, 10, 8, 5, 4, 15])[0]
    return make(r)
