"""A server with the OpenAI API that answers from a clock instead of a model, and misbehaves when it is told to.

Started as a program (`fake_server.py --port P --ctx N --chats N [--fail-above N]`) it is a peer's server under test.
"""
import argparse
import http.server
import json
import sys
import threading
import time

TOKEN_SECONDS = 0.001
DROP_AFTER = 5  # chunks


class FakeServer:
    """mode: ok, 500, drop, nousage, lie, lie_answers, endless, garbage, strict, silent"""

    def __init__(self, mode="ok", window=2048, slots=4, port=0, tokenizer=True, token_seconds=TOKEN_SECONDS, fail_after=None):
        self.mode, self.window, self.slots, self.tokenizer = mode, window, slots, tokenizer
        self.token_seconds = token_seconds
        self.fail_after = fail_after  # chats that go well before `mode` begins
        self.lock = threading.Lock()
        self.asked = []  # the last message of every chat
        self.finished = []  # of those that got their whole answer
        self.cache = set()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                fake.get(self)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    fake.post(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def get(self, handler):
        if handler.path == "/health":
            handler.reply(200, {"status": "ok"})
        elif handler.path == "/v1/models":
            handler.reply(200, {"data": [{"id": "fake-1", "owned_by": "fake"}]})
        elif handler.path == "/props":
            handler.reply(200, {"total_slots": self.slots, "default_generation_settings": {"n_ctx": self.window},
                                "build_info": "fake 1.0"})
        else:
            handler.reply(404, {"error": {"message": "no such route"}})

    def post(self, handler, body):
        if handler.path == "/tokenize" and self.tokenizer:
            handler.reply(200, {"tokens": list(range(len(body.get("content", "").split())))})
        elif handler.path == "/v1/chat/completions":
            self.chat(handler, body)
        else:
            handler.reply(404, {"error": {"message": "no such route"}})

    def chat(self, handler, body):
        messages = body["messages"]
        prompt = sum(len(message["content"].split()) + 3 for message in messages)
        last = messages[-1]["content"]
        with self.lock:
            self.asked.append(last)
            mode = "ok" if self.fail_after is not None and len(self.asked) <= self.fail_after else self.mode
        if mode == "strict" and "ignore_eos" in body:
            handler.reply(400, {"error": {"message": "unknown field ignore_eos"}})
            return
        if mode == "500":
            handler.reply(500, {"error": {"message": "the model is on fire"}})
            return
        wanted = body["max_tokens"]
        if prompt + wanted > self.window:
            handler.reply(400, {"error": {"message": f"{prompt} + {wanted} tokens exceed the context"}})
            return
        first = messages[0]["content"]
        cached = len(first.split()) if len(messages) > 1 and first in self.cache else 0
        self.cache.add(first)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        time.sleep((prompt - cached) * 1e-5)

        def event(data):
            handler.wfile.write(b"data: " + data.encode() + b"\n\n")
            handler.wfile.flush()

        if mode == "garbage":
            event("{this is not JSON")
            return
        if mode == "silent":
            time.sleep(30)
        n = 0
        while n < wanted or mode == "endless":
            time.sleep(self.token_seconds)
            event(json.dumps({"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}))
            n += 1
            if mode == "drop" and n == DROP_AFTER:
                return
        event(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        if mode != "nousage":
            usage = {"prompt_tokens": prompt, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": cached}}
            if mode == "lie":
                usage |= {"prompt_tokens": 7, "completion_tokens": 10 * n}
            if mode == "lie_answers":
                usage["completion_tokens"] = 10 * n
            event(json.dumps({"choices": [], "usage": usage}))
        event("[DONE]")
        with self.lock:
            self.finished.append(last)


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--ctx", type=int, required=True)
    flags.add_argument("--chats", type=int, required=True)
    flags.add_argument("--fail-above", type=int, default=1 << 40)
    options = flags.parse_args()
    if options.ctx > options.fail_above:
        sys.exit("no memory for a context of this size")
    with FakeServer(window=options.ctx // options.chats, slots=options.chats, port=options.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
