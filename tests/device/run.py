#!/usr/bin/env python3
"""Everything that needs a CUDA device, in one call: the tests labelled gpu, the same under compute-sanitizer, the demo model against
the CPU, the report's readings of the card, and a model of 27B. Usage:

    run.py [--bin build/cuda] [--out FOLDER] [--model FILE] [PART...]

PART: tests, sanitizers, answers, report, large (all of them when none is named), or one of large's: loading, memory, chats, long_context,
refusal, depths, step_sizes. Programs are looked for in FOLDER/ and FOLDER/tests/, so that a folder of carried binaries will do. Exit
code 1 when a check fails; timings are readings and never fail. Standard library only.
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import answers
import large
import report_readings
import sanitizer_report
from machine import Results

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo/freelunch-demo-q8_0.gguf"
GROUPS = ("tests", "sanitizers", "answers", "report", "large")
# Programs, and the processes that share one's tests: most of their time is the references on the host, on one core each.
TESTS = {"test_kernels_cuda": 6, "test_model_cuda": 4, "test_engine_cuda": 1}
SANITIZED = ("test_kernels_cuda", "test_model_cuda")
ALONE = ("test_model_cuda", "*MemoryIsAccounted*")  # sees what other programs on the device take
# Under a tool that makes each access ten to a hundred times as slow, tests take a few of their cases (tests/support/cases.h), and
# these stay out: long runs, what is about the driver, and prompts in int8 through a model (their products are in test_kernels_cuda).
NOT_SANITIZED = "-*ALongRun*:*ALostDevice*:*MemoryIsAccounted*:CudaInt8Model.*"
FEW_CASES = {"FREELUNCH_FEW_CASES": "1"}
PRINT_LIMIT = "1000"  # of reports: what fails should be seen whole
SANITIZERS = (("memcheck", ("--leak-check", "no")), ("racecheck", ()), ("initcheck", ()))
TEST_SECONDS, SANITIZER_SECONDS = 240, 260
AWAKE_SECONDS = 0.2
UNDER_WAY = set()  # processes
STOPPING = threading.Event()


def find(folder, name):
    for path in (folder / name, folder / "tests" / name):
        if path.exists():
            return str(path)
    raise SystemExit(f"{name} is not in {folder}: ./dev build cuda")


def n_passed(said):
    found = re.search(r"\[  PASSED  \] (\d+) test", said)
    return int(found[1]) if found else 0


def run(command, log, seconds, more_env=None):
    """Exit code (None: it ran out of time) and output, which also goes to the log."""
    env = {**os.environ, "CI_GPU": "1", **(more_env or {})}
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        UNDER_WAY.add(process)
        if STOPPING.is_set():
            end(process)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(process)
            process.wait()
            code = None
        UNDER_WAY.discard(process)
    return code, log.read_text(errors="replace")


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a sanitizer's program is a process of its own


def stop(number, _frame):
    """What is under way would go on using the device, and disturb what is measured next."""
    STOPPING.set()
    for process in list(UNDER_WAY):
        end(process)
    sys.exit(128 + number)


def verdict(name, ran, seconds, results):
    failed = " ".join(re.findall(r"^\[  FAILED  \] (\S+)$", "\n".join(said for _, said in ran), re.M))
    failed = failed or ("ran out of time" if any(code is None for code, _ in ran) else "")
    passed = [n_passed(said) for _, said in ran]
    results.check(name, all(code == 0 for code, _ in ran) and all(passed), f"{sum(passed)} passed {failed} in {seconds:.0f} s", "all")


def tests(programs, results, out):
    shards = [(name, i, n) for name, n in TESTS.items() for i in range(n)]
    others = f"-{ALONE[1]}"

    def one(shard):
        name, i, n = shard
        env = {"GTEST_TOTAL_SHARDS": str(n), "GTEST_SHARD_INDEX": str(i)}
        return run([find(programs, name), f"--gtest_filter={others}"], out / f"{name}-{i}.log", TEST_SECONDS, env)

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(shards)) as pool:
        ran = list(zip(shards, pool.map(one, shards)))
    seconds = time.monotonic() - started
    for name in TESTS:
        verdict(name, [result for shard, result in ran if shard[0] == name], seconds, results)


def test_alone(programs, results, out):
    started = time.monotonic()
    ran = run([find(programs, ALONE[0]), f"--gtest_filter={ALONE[1]}"], out / f"{ALONE[0]}-alone.log", TEST_SECONDS)
    verdict(f"{ALONE[0]} {ALONE[1]}", [ran], time.monotonic() - started, results)


def sanitizers(programs, results, out, limit):
    jobs = [(tool, options, name) for tool, options in SANITIZERS for name in SANITIZED]

    def one(job):
        tool, options, name = job
        started = time.monotonic()
        command = ["compute-sanitizer", "--tool", tool, *options, "--print-limit", PRINT_LIMIT, "--show-backtrace", "device",
                   find(programs, name), f"--gtest_filter={NOT_SANITIZED}"]
        return *run(command, out / f"{tool}-{name}.log", limit, FEW_CASES), time.monotonic() - started

    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for (tool, _, name), (code, said, seconds) in zip(jobs, pool.map(one, jobs)):
            errors = sanitizer_report.errors(said)
            clean = code == 0 and n_passed(said) > 0 and errors == 0
            done = f"{n_passed(said)} tests" if n_passed(said) else \
                f"{said.count('[       OK ]')} tests and not all, the last {(re.findall(r'RUN +. (.*)', said) or ['none'])[-1]}"
            found = "no summary" if errors is None else f"{errors} errors"
            results.check(f"{tool} {name}", clean, f"{done}, {found}, {seconds:.0f} s", "clean")


def attempt(name, part, program, model, results):
    try:
        part(program, model, results)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        results.check(name, False, error, "an answer")


def timed(name, part):
    started = time.monotonic()
    part()
    print(f"({name}: {time.monotonic() - started:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/cuda")
    parser.add_argument("--out", type=pathlib.Path, help="logs and the table; default: a folder that is removed")
    parser.add_argument("--model", type=pathlib.Path, help="the large model; default: a synthetic one of --size in a folder that is removed")
    parser.add_argument("--size", default="27B")
    parser.add_argument("--sanitizer-seconds", type=int, default=SANITIZER_SECONDS, help="after which a sanitizer's run has failed")
    parser.add_argument("parts", nargs="*")
    args = parser.parse_args()
    wanted = args.parts or list(GROUPS)
    chosen = [part for part in large.PARTS if part in wanted or "large" in wanted]
    if unknown := set(wanted) - {*GROUPS, *large.PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or pathlib.Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        side_by_side = []  # each is mostly references on the host and waiting
        if "tests" in wanted:
            side_by_side.append(lambda: timed("tests", lambda: tests(args.bin, results, out)))
        if "sanitizers" in wanted:
            side_by_side.append(lambda: timed("sanitizers", lambda: sanitizers(args.bin, results, out, args.sanitizer_seconds)))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            waiting = started = [pool.submit(part) for part in side_by_side]
            while waiting:  # awake now and then: a signal that another thread was given is handled in this one
                waiting = concurrent.futures.wait(waiting, timeout=AWAKE_SECONDS).not_done
            for part in started:
                part.result()
        if "tests" in wanted:
            timed("memory alone", lambda: test_alone(args.bin, results, out))
        program = find(args.bin, "freelunch")
        if "answers" in wanted:
            timed("answers", lambda: answers.compare(program, str(DEMO), results))
        if "report" in wanted:
            timed("report", lambda: report_readings.look(program, str(DEMO), results, out))
        if chosen:
            model = args.model or large.make(program, folder, args.size)
            for part in chosen:
                timed(part, lambda part=part: attempt(part, large.PARTS[part], program, model, results))
        (out / "device.txt").write_text("\n".join(results.lines) + "\n")
    sys.exit(1 if results.failed() else 0)


if __name__ == "__main__":
    main()
