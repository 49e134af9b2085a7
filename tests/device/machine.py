"""What the device tests share: a server of our own on loopback, the card's readings, results in one table."""
import concurrent.futures
import json
import math
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

START_SECONDS, ANSWER_SECONDS = 120, 300


class Results:
    """Lines `name: value (wanted)`; a check that fails makes failed() true, a reading never does."""

    def __init__(self):
        self.lines = []
        self._failed = False

    def check(self, name, ok, value, wanted):
        self._failed = self._failed or not ok
        self._add(name, value, f"wanted {wanted}", "ok" if ok else "FAILED")

    def reading(self, name, value, wanted=""):
        self._add(name, value, wanted and f"target {wanted}", "")

    def _add(self, *parts):
        line = "  ".join(str(part) for part in parts if part != "")
        self.lines.append(line)
        print(line, flush=True)

    def failed(self):
        return self._failed


class Server:
    """`freelunch serve` with these flags, ready to answer; a context manager that ends it."""

    def __init__(self, program, model, *flags):
        started = time.monotonic()
        self.process = subprocess.Popen([program, "serve", "-m", model, "--port", "0", *map(str, flags)], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if " ready: " in line:
                self.url = re.search(r"listening on (http://[0-9.:]+)", self.log)[1]
                self.ready_seconds = time.monotonic() - started
                threading.Thread(target=self.process.stderr.read, daemon=True).start()  # or a full pipe stops the server
                return
        self.process.wait(timeout=START_SECONDS)
        raise RuntimeError(f"the server ended before it was ready, with {self.process.returncode}:\n{self.log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=START_SECONDS)

    def log_line(self, text):
        return next((line.split(" I ", 1)[-1] for line in self.log.splitlines() if text in line), "")

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read()[:300]}") from error

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)

    def complete(self, prompt, n_predict, **options):
        """Greedy; the whole reply of /completion, its token ids in `tokens`."""
        return self.post("/completion", {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "ignore_eos": True,
                                         "return_tokens": True, **options})

    def complete_together(self, prompts, n_predict, **options):
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.complete(prompt, n_predict, **options), prompts))


def random_tokens(n, seed):
    """Ids below the special ones, the same for the same seed."""
    state, out = seed * 2654435761 + 12345, []
    for _ in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out.append(1000 + (state >> 33) % 100000)
    return out


def likeliest(token):
    """[(id, logprob)] of one entry of completion_probabilities, the likeliest first."""
    return [(entry["id"], entry["logprob"]) for entry in token["top_logprobs"]]


def all_finite(reply):
    return all(math.isfinite(entry[1]) for token in reply["completion_probabilities"] for entry in likeliest(token))


def memory_in_use():
    """MiB of the first device, of all processes."""
    out = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True,
                         text=True, check=True)
    return int(out.stdout)
