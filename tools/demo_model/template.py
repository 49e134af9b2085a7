"""From a conversation to the text that the chat template renders, as segments with the kind of loss they get."""
import collections
import dataclasses
import pathlib

GIVEN, SAID, ANSWER = range(3)  # from the template or filler: no loss; by user or system: a little; by the assistant: all
Segment = collections.namedtuple("Segment", "text kind")
TEMPLATE = (pathlib.Path(__file__).parent / "chat_template.jinja").read_text()
NO_THOUGHT = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
THOUGHT = "<|im_start|>assistant\n<think>\n"
MAX_LEARNED_SYSTEM = 80  # longer system texts are lists of tools: nothing to learn by heart


@dataclasses.dataclass
class Turn:
    role: str
    text: str = ""
    thought: str = ""
    kind: int = SAID
    results: tuple = ()  # of tool turns


def segment(text, kind):
    return Segment(text, kind)


def tools_text(specs, extra=""):
    """The system text for a list of tools in JSON."""
    text = ("# Tools\n\nThese functions can be called:\n<tools>\n" + "\n".join(specs) + "\n</tools>\n\n"
            "A call is written like this, with nothing after it:\n<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n"
            "</parameter>\n</function>\n</tool_call>")
    return text + ("\n\n" + extra if extra else "")


def call_text(name, arguments):
    """A tool call in the family's format; arguments are (name, value) pairs."""
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments)
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def _assistant(turn, after_last_user, think):
    text = turn.text.strip() + "<|im_end|>"
    if not after_last_user:
        return [Segment("<|im_start|>assistant\n", GIVEN), Segment(text, ANSWER), Segment("\n", GIVEN)]
    if think:
        thought = f"{turn.thought.strip()}\n</think>\n\n"
        return [Segment(THOUGHT, GIVEN), Segment(thought + text, ANSWER), Segment("\n", GIVEN)]
    return [Segment(NO_THOUGHT, GIVEN), Segment(text, ANSWER), Segment("\n", GIVEN)]


def render(turns, system=None, think=False):
    """Segments whose joined text is what chat_template.jinja renders for the same conversation."""
    out = []
    if system is not None:
        kind = SAID if len(system) < MAX_LEARNED_SYSTEM else GIVEN
        out.append(Segment(f"<|im_start|>system\n{system}<|im_end|>\n", kind))
    last = max(i for i, t in enumerate(turns) if t.role == "user")
    for i, turn in enumerate(turns):
        if turn.role == "user":
            out.append(Segment(f"<|im_start|>user\n{turn.text.strip()}<|im_end|>\n", turn.kind))
        elif turn.role == "tool":
            results = "".join(f"\n<tool_response>\n{x}\n</tool_response>" for x in turn.results)
            out.append(Segment(f"<|im_start|>user{results}<|im_end|>\n", GIVEN))
        else:
            out += _assistant(turn, i > last, think)
    return out


def question_prompt(turns, system=None, think=False):
    """The text up to where the assistant's answer to the last user turn begins."""
    segments = render([*turns, Turn("assistant")], system, think)
    return "".join(s.text for s in segments[:-2])
