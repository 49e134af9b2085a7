#!/usr/bin/env python3
"""Measures a model on this machine's GPU: the steps of the engine, then the server as its clients see it.

    tools/device_table.py --program build/cuda/freelunch --model 27B.gguf --out results

Writes bench.csv (the engine, by `freelunch bench`) and server.csv (memory, time to the first token, streams, and their
share of the engine's rate). Every prompt is random token ids, so no two share a prefix. Only the standard library is
needed.
"""

import argparse
import csv
import http.client
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

SHORT_PROMPT = 128
LONG_PROMPT = 6000
ANSWER = 128  # tokens of a timed answer
READY_S = 120
FIRST_ID, LAST_ID = 1000, 100000  # ordinary tokens of the family's vocabulary

# what each run of `freelunch bench` asks; one run a line of the CSV's first column
BENCH_RUNS = [
    ["-p", "0", "-n", "64", "-r", "5", "--parallel", "1,2,4,8,16,32"],
    ["-p", "512,2048,8192", "-n", "0", "-r", "5"],
    ["-p", "0", "-n", "32", "-r", "3", "-d", "32768"],
]
DEEP_RUN = ["-p", "0", "-n", "32", "-r", "2", "-d", "122880"]

SERVERS = [(32768, 1), (131072, 1), (131072, 4)]


def say(text):
    print(text, file=sys.stderr, flush=True)


def device_memory_mib(pid):
    """What the driver says a process holds; the whole card's use where it does not list processes."""
    query = ["nvidia-smi", "--format=csv,noheader,nounits"]
    apps = subprocess.run(query + ["--query-compute-apps=pid,used_memory"], capture_output=True, text=True, check=True)
    for line in apps.stdout.splitlines():
        fields = [f.strip() for f in line.split(",")]
        if fields[0] == str(pid) and fields[1].isdigit():
            return int(fields[1]), "process"
    card = subprocess.run(query + ["--query-gpu=memory.used"], capture_output=True, text=True, check=True)
    return int(card.stdout.split()[0]), "card"


def stream(port, n_prompt, n_predict, rng):
    """One streamed completion: when it was asked for, and when each token arrived."""
    prompt = [rng.randrange(FIRST_ID, LAST_ID) for _ in range(n_prompt)]
    body = json.dumps({"prompt": prompt, "n_predict": n_predict, "temperature": 0, "stream": True,
                       "ignore_eos": True, "cache_prompt": False, "return_tokens": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    start = time.perf_counter()
    connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"/completion: {response.status} {response.read(300)!r}")
    arrivals = []
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("stop"):
            break
        arrivals += [time.perf_counter()] * len(event["tokens"])
    connection.close()
    if len(arrivals) != n_predict:
        raise RuntimeError(f"{len(arrivals)} tokens arrived of {n_predict}")
    return start, arrivals


def first_token(port, n_prompt, rng):
    """Seconds until it arrives."""
    start, arrivals = stream(port, n_prompt, 4, rng)
    return arrivals[0] - start


def together(port, n_chats, n_predict, seed):
    """Tokens per second of n chats that begin at once, as (whole, steady). Whole: from the first token of the first to
    the last token of the last, so with the others' prompts and with the end, when fewer go on. Steady: while all of
    them answer."""
    results = [None] * n_chats
    barrier = threading.Barrier(n_chats)

    def chat(i):
        rng = random.Random(seed + i)
        barrier.wait()
        results[i] = stream(port, SHORT_PROMPT, n_predict, rng)

    threads = [threading.Thread(target=chat, args=(i,)) for i in range(n_chats)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    arrivals = [times for _, times in results]

    def rate(begin, end):
        return sum(begin < t <= end for times in arrivals for t in times) / (end - begin)

    whole = rate(min(times[0] for times in arrivals), max(times[-1] for times in arrivals))
    steady = rate(max(times[0] for times in arrivals), min(times[-1] for times in arrivals))
    return whole, steady


def measure_server(args, ctx, chats, row):
    flags = ["serve", "-m", args.model, "--ctx-size", str(ctx), "--parallel", str(chats), "--cache-type-k", "q8_0",
             "--cache-type-v", "q8_0", "--port", str(args.port), "--n-gpu-layers", "999"]
    name = f"{ctx} x {chats}"
    say(f"serve {name}")
    log = open(args.out / f"serve-{ctx}-{chats}.log", "w")
    began = time.perf_counter()
    server = subprocess.Popen([args.program, *flags], stdout=log, stderr=log)
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with {server.returncode}; see {log.name}")
            if time.perf_counter() - began > READY_S:
                raise RuntimeError("the server was not ready in time")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", args.port, timeout=2)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        row(name, "ready", time.perf_counter() - began, "s", 1)
        memory, whose = device_memory_mib(server.pid)
        row(name, f"device memory after load ({whose})", memory, "MiB", 1)
        rng = random.Random(ctx + chats)
        stream(args.port, SHORT_PROMPT, 8, rng)  # warm
        short = [first_token(args.port, SHORT_PROMPT, rng) for _ in range(5)]
        row(name, f"first token, prompt of {SHORT_PROMPT}", 1e3 * statistics.median(short), "ms", 5, short)
        long = [first_token(args.port, LONG_PROMPT, rng) for _ in range(5)]
        row(name, f"first token, prompt of {LONG_PROMPT}", 1e3 * statistics.median(long), "ms", 5, long)
        one = []
        for _ in range(3):
            _, arrivals = stream(args.port, SHORT_PROMPT, ANSWER, rng)
            one.append((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))
        row(name, "one chat", statistics.median(one), "tok/s", 3, one)
        rates = {1: statistics.median(one)}
        if chats > 1:
            whole, steady = zip(*[together(args.port, chats, 2 * ANSWER, 100 * i) for i in range(3)])
            row(name, f"{chats} chats together, first token to last", statistics.median(whole), "tok/s", 3, whole)
            row(name, f"{chats} chats together, while all answer", statistics.median(steady), "tok/s", 3, steady)
            rates[chats] = statistics.median(whole)
        row(name, f"device memory after use ({whose})", device_memory_mib(server.pid)[0], "MiB", 1)
        return rates
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        log.close()


def measure_engine(args):
    """Writes bench.csv; returns tokens per second by the number of chats, at depth 0."""
    rates = {}
    with open(args.out / "bench.csv", "w") as f:
        common = [args.program, "bench", "-m", args.model, "-ctk", "q8_0", "-ctv", "q8_0", "-o", "csv"]
        for i, run in enumerate(BENCH_RUNS + ([DEEP_RUN] if args.deep else [])):
            say("bench " + " ".join(run))
            out = subprocess.run(common + run, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            for line in out if i == 0 else out[1:]:
                f.write(line + "\n")
            f.flush()
            for line in csv.DictReader(out):
                if line["n_gen"] != "0" and line["n_depth"] == "0":
                    rates[int(line["n_parallel"])] = float(line["avg_ts"])
                print(f"pp {line['n_prompt']:>5} tg {line['n_gen']:>3} depth {line['n_depth']:>6} chats "
                      f"{line['n_parallel']:>2}: {float(line['avg_ts']):9.1f} tok/s, {float(line['limit_share'] or 0):.2f} of the limit",
                      flush=True)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--deep", action="store_true", help="also decode at a depth of 122880 tokens")
    parser.add_argument("--no-bench", action="store_true", help="the server only")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    with open(args.out / "server.csv", "w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["context x chats", "what", "value", "unit", "n", "min", "max"])

        def row(name, what, value, unit, n, samples=None):
            scale = 1e3 if unit == "ms" else 1
            least, most = (min(samples) * scale, max(samples) * scale) if samples else (value, value)
            table.writerow([name, what, f"{value:.4g}" if value < 1000 else f"{value:.0f}", unit, n, f"{least:.5g}",
                            f"{most:.5g}"])
            f.flush()
            print(f"{name:12} {what:44} {value:9.1f} {unit}", flush=True)

        served = {}
        for ctx, chats in SERVERS:
            served |= measure_server(args, ctx, chats, row)
        if args.no_bench:
            return
        engine = measure_engine(args)
        for chats, rate in sorted(served.items()):
            row(f"{chats} chats", "server's share of the engine's rate", 100 * rate / engine[chats], "%", 1)


if __name__ == "__main__":
    main()
