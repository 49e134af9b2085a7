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
    """mode: ok, 500, drop, nousage, lie, lie_answers, endless, garbage, strict, silent

    make: whose habits it has where servers differ. "llama": a first chunk with the role and null content, reasoning_content,
    comments that keep the connection alive, timings. "vllm": no /props, /version and max_model_len, /tokenize of a prompt,
    reasoning under its newer name, usage null in every chunk but the last, cached tokens not stated. "plain": nothing but
    the API of OpenAI, lines that end in CR LF, an empty delta first, answers in one chunk of several tokens at times."""

    def __init__(self, mode="ok", window=2048, slots=4, port=0, tokenizer=True, token_seconds=TOKEN_SECONDS, fail_after=None,
                 make="fake"):
        self.make = make
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
            model = {"llama": {"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 4096, "n_params": 9, "size": 7}},
                     "vllm": {"id": "org/m", "owned_by": "vllm", "max_model_len": self.window}}
            handler.reply(200, {"data": [model.get(self.make, {"id": "fake-1", "owned_by": "fake"})]})
        elif handler.path == "/version" and self.make == "vllm":
            handler.reply(200, {"version": "0.11.0"})
        elif handler.path == "/props" and self.make not in ("vllm", "plain"):
            handler.reply(200, {"total_slots": self.slots, "default_generation_settings": {"n_ctx": self.window},
                                "build_info": "fake 1.0"})
        else:
            handler.reply(404, {"error": {"message": "no such route"}})

    def post(self, handler, body):
        if handler.path == "/tokenize" and self.make == "vllm" and "prompt" in body:
            ids = list(range(len(body["prompt"].split())))
            handler.reply(200, {"count": len(ids), "max_model_len": self.window, "tokens": ids})
        elif handler.path == "/tokenize" and self.make in ("vllm", "plain"):
            handler.reply(400 if self.make == "vllm" else 404, {"object": "error", "message": "prompt: field required"})
        elif handler.path == "/tokenize" and self.tokenizer:
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
        end_of_line = b"\r\n" if self.make == "plain" else b"\n"

        def event(data):
            handler.wfile.write(b"data: " + data.encode() + 2 * end_of_line)
            handler.wfile.flush()

        def chunk(delta, reason=None, **more):
            usage = {"usage": None} if self.make == "vllm" else {}
            event(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **usage, **more}))

        if self.make != "fake":
            chunk({"role": "assistant", "content": None if self.make == "llama" else ""})

        if mode == "garbage":
            event("{this is not JSON")
            return
        if mode == "silent":
            time.sleep(30)
        n = 0
        while n < wanted or mode == "endless":
            time.sleep(self.token_seconds)
            if self.make == "llama" and n % 4 == 0:
                handler.wfile.write(b":\n\n")
            thinks = n < wanted // 2
            key = {"llama": "reasoning_content", "vllm": "reasoning"}.get(self.make, "content") if thinks else "content"
            together = min(3, wanted - n) if self.make == "plain" and n > 0 else 1
            chunk({key: " word" * together})
            n += together
            if mode == "drop" and n == DROP_AFTER:
                return
        timings = {"timings": {"cache_n": cached, "prompt_n": prompt - cached, "predicted_n": n}} if self.make == "llama" else {}
        chunk({}, "length", **timings)
        if mode != "nousage":
            usage = {"prompt_tokens": prompt, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": cached}}
            if self.make in ("vllm", "plain"):
                usage["prompt_tokens_details"] = None
            if self.make == "llama":
                del usage["prompt_tokens_details"]
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
    flags.add_argument("--make", default="fake")
    flags.add_argument("--fail-above", type=int, default=1 << 40)
    flags.add_argument("--start-seconds", type=float, default=0, help="for which a large model is loaded")
    options = flags.parse_args()
    if options.ctx > options.fail_above:
        sys.exit("no memory for a context of this size")
    time.sleep(options.start_seconds)
    with FakeServer(window=options.ctx // options.chats, slots=options.chats, port=options.port, make=options.make):
        threading.Event().wait()


if __name__ == "__main__":
    main()
