#include "eval/sandbox/harness.h"

#include <string>

namespace fl::eval {
namespace {

// Only these values cross between the two interpreters: an object that claims to be equal to everything
// cannot.
constexpr std::string_view kWire = R"PY(
import json, math, os, sys

MAX_LINE = 1 << 20
MAX_DEPTH = 50


class NotData(Exception):
    pass


def to_wire(value, depth=0):
    if depth > MAX_DEPTH:
        raise NotData("nested deeper than %d" % MAX_DEPTH)
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind in (list, tuple, set, frozenset):
        return {kind.__name__: [to_wire(item, depth + 1) for item in value]}
    if kind is dict or kind.__name__ in ("OrderedDict", "defaultdict", "Counter"):
        return {"dict": [[to_wire(k, depth + 1), to_wire(v, depth + 1)] for k, v in value.items()]}
    if kind.__name__ in ("dict_keys", "dict_values", "dict_items", "range", "map", "filter", "zip", "generator"):
        raise NotData("returned a %s, not a list" % kind.__name__)
    raise NotData("returned a %s" % kind.__name__)


def from_wire(value):
    if value is None or isinstance(value, (bool, str)):
        return value
    (kind, body), = value.items()
    if kind == "int":
        return int(body, 16)
    if kind == "float":
        return float.fromhex(body)
    if kind == "complex":
        return complex(float.fromhex(body[0]), float.fromhex(body[1]))
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "dict":
        return {from_wire(k): from_wire(v) for k, v in body}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](from_wire(item) for item in body)


def send(fd, message):
    data = json.dumps(message).encode() + b"\n"
    if len(data) > MAX_LINE:
        raise NotData("more than %d bytes" % MAX_LINE)
    while data:
        data = data[os.write(fd, data):]


def receive(stream):
    line = stream.readline(MAX_LINE + 1)
    if not line.endswith(b"\n"):
        return None
    return json.loads(line)


def read_job():
    with os.fdopen(0, "rb") as stream:
        return json.loads(stream.read())
)PY";

constexpr std::string_view kCandidate = R"PY(

def main():
    os.closerange(5, 64)  # the filter's descriptor, which bubblewrap leaves open
    job = read_job()
    os.open("/dev/null", os.O_RDONLY)  # becomes descriptor 0
    sys.stdin = open(0)
    sys.setrecursionlimit(10000)
    namespace = {"__name__": "answer"}
    try:
        exec(compile(job["source"], "<answer>", "exec"), namespace)
        function = namespace.get(job["entry_point"])
        if not callable(function):
            send(3, {"kind": "no_function", "detail": "no function %s" % job["entry_point"]})
            return
    except BaseException as error:
        send(3, {"kind": "raised", "detail": "%s: %s" % (type(error).__name__, str(error)[:300])})
        return
    send(3, {"kind": "ready"})
    with os.fdopen(4, "rb") as calls:
        while True:
            call = receive(calls)
            if call is None:
                return
            try:
                args = [from_wire(item) for item in call["args"]]
                named = {name: from_wire(item) for name, item in call["named"].items()}
                answer = {"kind": "value", "value": to_wire(function(*args, **named))}
            except NotData as error:
                answer = {"kind": "not_data", "detail": str(error)}
            except BaseException as error:
                answer = {"kind": "raised", "type": type(error).__name__,
                          "detail": "%s: %s" % (type(error).__name__, str(error)[:300])}
            try:
                send(3, answer)
            except NotData as error:
                send(3, {"kind": "not_data", "detail": str(error)})


main()
)PY";

constexpr std::string_view kChecker = R"PY(

class CandidateFault(Exception):
    def __init__(self, kind, detail):
        Exception.__init__(self, detail)
        self.kind = kind
        self.detail = detail


def report(kind, detail):
    line = json.dumps({"kind": kind, "detail": str(detail)[:500]}).encode() + b"\n"
    while line:
        line = line[os.write(5, line):]


def read_answer(answers):
    try:
        answer = receive(answers)
    except Exception:
        raise CandidateFault("not_data", "the answer is not readable")
    if answer is None:
        raise CandidateFault("ended", "the program ended before it answered")
    if not isinstance(answer, dict) or answer.get("kind") not in ("ready", "value", "raised", "not_data", "no_function"):
        raise CandidateFault("not_data", "the answer is not readable")
    return answer


def make_proxy(answers):
    import builtins

    def candidate(*args, **named):
        send(3, {"args": [to_wire(item) for item in args], "named": {name: to_wire(item) for name, item in named.items()}})
        answer = read_answer(answers)
        if answer["kind"] == "value":
            try:
                return from_wire(answer["value"])
            except Exception:
                raise CandidateFault("not_data", "the answer is not readable")
        if answer["kind"] == "raised":
            # A test may expect an exception of a built-in type.
            kind = getattr(builtins, str(answer.get("type")), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                error = kind(str(answer.get("detail")))
                error.from_candidate = True
                raise error
        kind = "not_data" if answer["kind"] == "ready" else answer["kind"]
        raise CandidateFault(kind, answer.get("detail", ""))

    return candidate


def main():
    job = read_job()
    os.open("/dev/null", os.O_RDONLY)
    answers = os.fdopen(4, "rb")
    try:
        first = read_answer(answers)
        if first["kind"] == "value":
            raise CandidateFault("not_data", "an answer without a call")
        if first["kind"] != "ready":
            raise CandidateFault(first["kind"], first.get("detail", ""))
        namespace = {"__name__": "test"}
        # The stub brings the imports and helpers that tests use; its own function is then the one behind the pipe.
        exec(compile(job["prompt"] + "\n    pass\n", "<prompt>", "exec"), namespace)
        candidate = make_proxy(answers)
        namespace[job["entry_point"]] = candidate
        exec(compile(job["test"], "<test>", "exec"), namespace)
        namespace["check"](candidate)
    except CandidateFault as fault:
        report(fault.kind, fault.detail)
        return
    except AssertionError as error:
        report("wrong", str(error) or "an assertion failed")
        return
    except BaseException as error:
        kind = "raised" if getattr(error, "from_candidate", False) else "wrong"
        report(kind, str(error) if kind == "raised" else "%s: %s" % (type(error).__name__, error))
        return
    nonce = job["nonce"].encode() + b"\n"
    while nonce:
        nonce = nonce[os.write(5, nonce):]


main()
)PY";

}  // namespace

std::string_view candidate_program() {
  static const std::string kProgram = std::string(kWire) + std::string(kCandidate);
  return kProgram;
}

std::string_view checker_program() {
  static const std::string kProgram = std::string(kWire) + std::string(kChecker);
  return kProgram;
}

}  // namespace fl::eval
