"""A `freelunch serve` of our own on a free port of loopback, and one request at a time to it. Standard library only."""
import json
import re
import subprocess
import threading
import urllib.request

START_SECONDS, ANSWER_SECONDS = 120, 300


class Served:
    """Starts the program on a model; a context manager that ends the server it started."""

    def __init__(self, program, model, *flags):
        self.process = subprocess.Popen(
            [program, "serve", "--model", model, "--port", "0", "--ctx-size", "8192", "--parallel", "1", *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = ""
        for line in self.process.stderr:
            log += line
            found = re.search(r"listening on (http://[0-9.:]+)", log)
            if found and " ready: " in line:
                self.url = found[1]
                threading.Thread(target=self.process.stderr.read, daemon=True).start()  # or a full pipe stops the server
                return
        raise RuntimeError(f"the server ended before it was ready:\n{log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=START_SECONDS)

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)

    def chat(self, messages, thinking=None, **options):
        """The first choice's message; greedy unless `temperature` is given. A text stands for one user message."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 1024, **options}
        if thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return self.post("/v1/chat/completions", body)["choices"][0]["message"]

    def count_tokens(self, text):
        return len(self.post("/tokenize", {"content": text})["tokens"])
