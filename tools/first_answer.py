#!/usr/bin/env python3
"""The main job of ./dev run: start `freelunch serve` on a model, ask it a coding question over HTTP, stream the answer to
the terminal, measure it and print the answer card; then `freelunch report --quick` measures the small matrix and writes the
report. Standard library only; ends the server it started.
"""
import argparse
import http.client
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

QUESTION = ("Complete the following Python function. Answer with the code only.\n\n```python\ndef count_vowels(text: str) -> int:\n"
            '    """Count the vowels (a, e, i, o, u) in text, upper or lower case."""\n```')
PARALLEL = (1, 2, 4)
TOKENS_EACH = 128  # per chat when measuring; long enough that the start does not count
START_SECONDS = 600
REPEATS = 3
REPORT_BUDGET = "90s"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process of our own on loopback."""

    def __init__(self, program: str, model: str, n_slots: int):
        self.port = free_port()
        command = [program, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--parallel", str(n_slots),
                   "--ctx-size", str(n_slots * 4096), "--metrics"]
        if model:
            command += ["--model", model]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                sys.exit("the server ended:\n" + "".join(self.log[-20:]))
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit(f"the server was not ready after {START_SECONDS} s:\n" + "".join(self.log[-20:]))

    def get(self, path: str):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def chat(self, body: dict, on_text=None) -> dict:
        """Streams one chat; times are of this side of the wire."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        start = time.monotonic()
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {response.read().decode(errors='replace')}")
        result = {"first": None, "timings": {}}
        for raw in response:
            line = raw.decode().strip()
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            result["timings"] = event.get("timings", result["timings"])
            for choice in event.get("choices", []):
                delta = choice.get("delta", {})
                for field in ("reasoning_content", "content"):
                    if text := delta.get(field):
                        if result["first"] is None:
                            result["first"] = time.monotonic() - start
                        if on_text:
                            on_text(text, field == "reasoning_content")
        result["seconds"] = time.monotonic() - start
        return result

    def memory(self) -> int:
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


def together(server: Server, n_chats: int) -> tuple[float, float]:
    """(tokens/s of all chats together, median seconds to the first token) of n chats that start at once."""
    results: list[dict] = [{} for _ in range(n_chats)]

    def one(i: int) -> None:
        # A different first line each: nothing is taken from the prefix cache.
        results[i] = server.chat({"messages": [{"role": "user", "content": f"Note {time.monotonic_ns()}.\n{QUESTION}"}],
                                  "max_tokens": TOKENS_EACH, "ignore_eos": True, "temperature": 0})

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n_chats)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    if any("timings" not in r for r in results):
        raise RuntimeError("a chat failed; see above")
    tokens = sum(r["timings"].get("predicted_n", 0) for r in results)
    return tokens / seconds, statistics.median(r["first"] for r in results)


class Printer:
    """The answer as it comes; the thought is faint where colours are wanted."""

    def __init__(self, out, colour: bool):
        self.out, self.colour, self.thinking = out, colour, False

    def faint(self, text: str) -> str:
        return f"\033[2m{text}\033[0m" if self.colour else text

    def __call__(self, text: str, thinking: bool) -> None:
        if self.thinking and not thinking:
            print(file=self.out)
        self.thinking = thinking
        print(self.faint(text) if thinking else text, end="", file=self.out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="build/release/freelunch")
    parser.add_argument("--model", default="", help="GGUF file (default: the bundled demo model)")
    parser.add_argument("--json", action="store_true", help="the card as JSON on stdout, and no report")
    parser.add_argument("--no-report", action="store_true", help="only the answer and its card")
    parser.add_argument("--out", default="out/report", help="folder of the report")
    args = parser.parse_args()
    talk = sys.stderr if args.json else sys.stdout

    server = Server(args.program, args.model, max(PARALLEL))
    try:
        server.wait_ready()
        model = json.loads(server.get("/v1/models")[1])["data"][0]["id"]
        props = json.loads(server.get("/props")[1])
        printer = Printer(talk, talk.isatty() and not os.environ.get("NO_COLOR"))
        print(f"\n{printer.faint(QUESTION)}\n", file=talk, flush=True)
        server.chat({"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400, "temperature": 0},
                    printer)
        print("\n", file=talk)
        rates = {}
        firsts = {}
        for n in PARALLEL:
            runs = [together(server, n) for _ in range(REPEATS)]
            rates[n] = statistics.median(r for r, _ in runs)
            firsts[n] = statistics.median(f for _, f in runs)
        memory = server.memory()
        path = props.get("model_path", args.model)
    finally:
        server.stop()
    bench = json.loads(subprocess.run([args.program, "bench", "-m", path, "-p", "0", "-n", "64", "-r", "3", "-o", "json"],
                                      check=True, stdout=subprocess.PIPE, text=True).stdout)[0]
    card = {"model": model, "file": os.path.basename(path), "file_bytes": os.path.getsize(path),
            "backend": bench["gpu_info"] or f"CPU: {bench['cpu_info']}", "threads": bench["n_threads"] or os.cpu_count(),
            "tokens_per_second": rates, "first_token_seconds": firsts, "memory_bytes": memory,
            "read_bandwidth": bench["read_bandwidth"], "bandwidth_share": bench["limit_share"],
            "step_tokens_per_second": bench["avg_ts"]}
    if args.json:
        print(json.dumps(card, indent=2))
        return 0
    name = card["model"] if card["model"] == card["file"] else f"{card['model']}: {card['file']}"
    rows = [("model", f"{name}, {card['file_bytes'] / 1e6:.1f} MB"),
            ("backend", f"{card['backend']}, {card['threads']} threads"),
            ("one chat", f"{rates[1]:.0f} tok/s"),
            ("2 and 4 chats", f"{rates[2]:.0f} and {rates[4]:.0f} tok/s together"),
            ("first token", f"{firsts[1] * 1000:.0f} ms alone, {firsts[4] * 1000:.0f} ms with 4 chats"),
            ("memory", f"{memory / 2**20:.0f} MiB resident"),
            ("of the limit", f"{card['bandwidth_share'] * 100:.0f} % of the {card['read_bandwidth'] / 1e9:.1f} GB/s that this "
                             f"machine reads (steps alone: {card['step_tokens_per_second']:.0f} tok/s)")]
    width = max(len(value) for _, value in rows)
    print("+" + "-" * (width + 19) + "+")
    for name, value in rows:
        print(f"| {name:<15}  {value:<{width}} |")
    print("+" + "-" * (width + 19) + "+")
    if bench["step_bytes"] < 64e6:
        print("This model is small enough for the processor's caches, so its share of the memory's limit says little;\n"
              "try `freelunch synth big.gguf --size 0.8B` and `freelunch bench -m big.gguf`.")
    if args.no_report:
        return 0
    print(f"\nMeasuring contexts x chats (at most {REPORT_BUDGET}); --no-report leaves this out.", flush=True)
    return subprocess.run([args.program, "report", "--model", path, "--quick", "--card", "--budget", REPORT_BUDGET, "--fresh",
                           "--out", args.out], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
