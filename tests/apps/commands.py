#!/usr/bin/env python3
"""The program as a user meets it: exit codes, what goes to which stream, signals, the link named llama-server, memory as
planned. Usage: commands.py PROGRAM [unittest arguments]. Standard library only.
"""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

PROGRAM = ""
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo/freelunch-demo-q8_0.gguf"
OK, USAGE, MODEL, FIT, ADDRESS, INTERRUPTED, TERMINATED = 0, 2, 3, 4, 6, 130, 143
PLAN_TOLERANCE = 0.02  # a plan and the resident memory of the process
# Of the build, e.g. "address,undefined": its shadow is memory that no plan knows, and arithmetic takes twenty times as long.
SANITIZED = os.environ.get("FREELUNCH_SANITIZE", "") != ""

# The command line that must work word for word, of which only files and port change.
USERS_COMMAND = ("--model {model} --mmproj {mmproj} --alias qwen35 --host 127.0.0.1 --port 0 --n-gpu-layers 999 --ctx-size 32768 "
                 "--parallel 1 --jinja --reasoning on --reasoning-format none --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 "
                 "--repeat-penalty 1.0 --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on --metrics")


def run(*arguments, stdin="", env=None, timeout=120):
    return subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, check=False)


class Server:
    """A server of our own on a free port of loopback."""

    def __init__(self, *arguments, program=None, env=None):
        self.process = subprocess.Popen([program or PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self.log = ""
        self.url = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.log += line
                if found := re.search(r"listening on (http://[0-9.:]+)", line):
                    self.url = found[1]
                self._changed.notify_all()

    def wait_for(self, text, seconds=60):
        with self._changed:
            if not self._changed.wait_for(lambda: text in self.log, seconds):
                raise AssertionError(f"no '{text}' in the log:\n{self.log}")
        return self

    def request(self, path, body=None, timeout=60):
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self, number=signal.SIGTERM, seconds=20):
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def write_gguf(path, keys, tensors):
    """A GGUF file with zeros for weights."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()
    kinds = {str: lambda v: struct.pack("<I", 8) + text(v), bool: lambda v: struct.pack("<I?", 7, v),
             int: lambda v: struct.pack("<II", 4, v)}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        head += text(key) + kinds[type(value)](value)
    offset = 0
    for name, shape in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        size = 4
        for extent in shape:
            size *= extent
        offset += (size + 31) // 32 * 32
    head += bytes(-len(head) % 32)
    path.write_bytes(head + bytes(offset))


def write_projector(path, width):
    write_gguf(path, {"general.architecture": "clip", "clip.has_vision_encoder": True,
                      "clip.projector_type": "qwen3vl_merger", "clip.vision.projection_dim": width},
               {"v.patch_embd.weight": (4, 4, 3, 8), "v.position_embd.weight": (8, 4), "mm.0.weight": (32, 32),
                "mm.2.weight": (32, width)})


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.directory.name)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def test_help_and_usage(self):
        top = run("--help")
        self.assertEqual(top.returncode, OK)
        commands = re.findall(r"^  (\w+) ", top.stdout, re.M)
        self.assertIn("serve", commands)
        for command in commands:
            shown = run(command, "--help")
            self.assertEqual(shown.returncode, OK, command)
            self.assertIn("xamples:", shown.stdout, command)
            wrong = run(command, "--no-such-flag")
            self.assertEqual(wrong.returncode, USAGE, command)
            self.assertEqual(wrong.stdout, "", command)
            if command in ("serve", "run", "chat", "plan"):
                self.assertIn("--no-such-flag", wrong.stderr, command)
        self.assertEqual(run().returncode, USAGE)
        self.assertEqual(run("dance").returncode, USAGE)
        self.assertRegex(run("--version").stdout, r"^freelunch \d+\.\d+\.\d+\n$")

    def test_files_that_are_no_models(self):
        foreign = self.tmp / "foreign.gguf"
        foreign.write_text("hello, I am text\n" * 100)
        cut = self.tmp / "cut.gguf"
        cut.write_bytes(DEMO.read_bytes()[:5000])
        other = self.tmp / "other.gguf"
        write_gguf(other, {"general.architecture": "llama"}, {"x": (32,)})
        for path in (self.tmp / "absent.gguf", foreign, cut):
            for line in (["inspect", path], ["plan", "-m", path], ["run", "-m", path, "-p", "x"],
                         ["serve", "-m", path, "--port", "0"]):
                result = run(*line)
                self.assertEqual(result.returncode, MODEL, (line, result.stderr))
                self.assertEqual(result.stdout, "")
                self.assertIn(path.name, result.stderr)
                self.assertEqual(len(result.stderr.strip().split("\n")), 1, result.stderr)
        self.assertEqual(run("plan", "-m", other).returncode, MODEL)
        shown = run("inspect", other)
        self.assertEqual(shown.returncode, OK)
        self.assertIn("not usable as a model", shown.stdout)

    def test_inspect_json(self):
        document = json.loads(run("inspect", DEMO, "--json").stdout)
        self.assertTrue(document["model"]["usable"])
        self.assertEqual(document["model"]["mtp_layers"], 1)
        self.assertEqual(document["tokenizer"]["tokens"], document["model"]["vocabulary"])
        self.assertEqual(sum(s["bytes"] for s in document["tensor_bytes_by_kind"].values()),
                         sum(t["bytes"] for t in document["tensors"]))
        self.assertEqual(document["tensor_bytes_by_kind"].keys() >= {"Gated DeltaNet", "full attention", "feed-forward"}, True)
        self.assertEqual(document["metadata"]["general.architecture"], '"qwen35"')

    def test_plan(self):
        fits = run("plan", "--size", "27B", "--type", "Q4_K_M", "--vram", "24GiB", "-c", "131072", "-np", "4", "-ctk", "q8_0",
                   "-ctv", "q8_0", "--json")
        self.assertEqual(fits.returncode, OK, fits.stderr)
        plan = json.loads(fits.stdout)
        self.assertTrue(plan["fits"])
        self.assertEqual((plan["n_slots"], plan["n_ctx_per_slot"]), (4, 32768))
        self.assertEqual(plan["total_bytes"], sum(item["bytes"] for item in plan["items"]))
        self.assertGreaterEqual(plan["largest"][2]["n_ctx_per_chat"], 32768)
        # 16 attention layers x (4 heads x 256) x (K and V) x 34 bytes for 32 values
        cache = next(item["bytes"] for item in plan["items"] if item["name"] == "kv cache")
        self.assertEqual(cache, 131072 * 16 * 1024 * 2 * 34 // 32)
        small = run("plan", "--size", "27B", "--vram", "16GiB", "--json")
        self.assertEqual(small.returncode, FIT)
        self.assertFalse(json.loads(small.stdout)["fits"])
        self.assertEqual(run("plan", "--size", "27B", "--vram", "many").returncode, USAGE)
        self.assertEqual(run("plan", "--size", "27B", "--type", "Q9").returncode, USAGE)

    def test_run(self):
        answer = run("run", "--chat", "-p", "What is 7 + 5?", "--temp", "0", "--reasoning", "off")
        self.assertEqual(answer.returncode, OK, answer.stderr)
        self.assertRegex(answer.stdout, r"\S")
        self.assertNotIn("\033", answer.stdout)
        self.assertIn("tokens at", answer.stderr)
        document = json.loads(run("run", "--json", "-n", "5", "--temp", "0", "--ignore-eos", stdin="def f(n):").stdout)
        self.assertEqual(document["timings"]["predicted_n"], 5)
        self.assertEqual(document["finish_reason"], "length")
        seeded = [run("run", "-p", "Once", "-n", "12", "-s", "7", "--temp", "1").stdout for _ in range(2)]
        self.assertEqual(seeded[0], seeded[1])
        self.assertEqual(run("run", stdin="").returncode, USAGE)
        self.assertEqual(run("run", "-p", "word " * 20000).returncode, USAGE)

    def test_results_that_cannot_be_written(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([PROGRAM, "synth", "--dry-run"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write the results: No space left on device", done.stderr)

    def test_an_interrupted_writer_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "model.gguf"
            process = subprocess.Popen([PROGRAM, "synth", str(out), "--size", "9B"])
            held = f"/proc/{process.pid}/fd"
            # Until the file is open; 5.6 GB take longer than that.
            while process.poll() is None and not any(folder in os.readlink(f"{held}/{fd}") for fd in os.listdir(held)):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(), -signal.SIGTERM)
            self.assertEqual(os.listdir(folder), [])

    def test_colours(self):
        line = ["run", "--chat", "-p", "What is 7 + 5?", "--temp", "0", "--reasoning", "on"]
        forced = run(*line, env={"CLICOLOR_FORCE": "1", "NO_COLOR": ""})
        self.assertIn("\033[2m", forced.stdout)
        plain = run(*line, env={"CLICOLOR_FORCE": "1", "NO_COLOR": "1"})
        self.assertNotIn("\033", plain.stdout + plain.stderr)
        self.assertIn("<think>", plain.stdout)

    def test_chat(self):
        talk = run("chat", "--temp", "0", "--reasoning", "off",
                   stdin="What is 7 + 5?\n/stats\n/reset\nWhat is \\\n2 + 2?\n/nonsense\n/help\n/quit\nnever read\n")
        self.assertEqual(talk.returncode, OK, talk.stderr)
        for text in ("12", "tokens at", "forgotten", "unknown command /nonsense", "Ctrl-C"):
            self.assertIn(text, talk.stdout)

    def test_the_users_command_through_a_link(self):
        link = self.tmp / "llama-server"
        link.symlink_to(PROGRAM)
        projector = self.tmp / "mmproj.gguf"
        width = json.loads(run("inspect", DEMO, "--json").stdout)["model"]["embedding"]
        write_projector(projector, width)
        words = USERS_COMMAND.format(model=DEMO, mmproj=projector).split()
        with Server(*words, program=str(link)) as server:
            server.wait_for("ready")
            self.assertEqual(server.log.count("no GPU"), 1, server.log)
            self.assertEqual(json.loads(server.request("/v1/models")[1])["data"][0]["id"], "qwen35")
            settings = json.loads(server.request("/props")[1])["default_generation_settings"]
            self.assertAlmostEqual(settings["params"]["temperature"], 0.6, 5)
            self.assertEqual(settings["params"]["top_k"], 20)
            self.assertIn("llamacpp:", server.request("/metrics")[1])
            question = [{"role": "user", "content": "What is 7 + 5?"}]
            status, text = server.request("/v1/chat/completions", {"messages": question, "max_tokens": 64})
            self.assertEqual(status, 200)
            message = json.loads(text)["choices"][0]["message"]
            self.assertTrue(message["content"].startswith("<think>"), message)
            self.assertNotIn("reasoning_content", message)
            image = [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                                  {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
            status, text = server.request("/v1/chat/completions", {"messages": image})
            self.assertEqual(status, 400)
            self.assertIn("image", json.loads(text)["error"]["message"])
            self.assertEqual(server.end(), OK)
        write_projector(projector, width + 1)
        wrong = run(*["serve", *words])
        self.assertEqual(wrong.returncode, MODEL, wrong.stderr)
        self.assertIn("belongs to another size", wrong.stderr)

    def test_a_port_in_use_is_said_before_the_model_loads(self):
        with Server("serve", "--port", "0") as server:
            server.wait_for("ready")
            port = server.url.rsplit(":", 1)[1]
            second = run("serve", "--port", port)
            self.assertEqual(second.returncode, ADDRESS)
            self.assertIn(port, second.stderr)
            self.assertNotIn("memory:", second.stderr)
            self.assertEqual(server.request("/health")[0], 200, "the first one is unharmed")
            self.assertEqual(server.end(), OK)

    def test_environment(self):
        with Server("serve", env={"LLAMA_ARG_MODEL": str(DEMO), "LLAMA_ARG_PORT": "0", "LLAMA_ARG_ALIAS": "from-env",
                                  "LLAMA_ARG_N_PARALLEL": "2", "LLAMA_ARG_CTX_SIZE": "1024"}) as server:
            server.wait_for("ready")
            self.assertIn("slots: 2, each with a context of 512 tokens", server.log)
            self.assertEqual(json.loads(server.request("/v1/models")[1])["data"][0]["id"], "from-env")
            self.assertEqual(server.end(signal.SIGINT), OK)
        nowhere = run("serve", "--port", "0", env={"FREELUNCH_DATA": str(self.tmp)})
        self.assertEqual(nowhere.returncode, MODEL)
        self.assertIn("FREELUNCH_DATA", nowhere.stderr)

    def test_sampling_defaults_are_checked_before_the_model_loads(self):
        for words in (["--logit-bias", "x"], ["--chat-template-kwargs", "{"], ["--threads-batch", "1", "--threads", "2"]):
            result = run("serve", "--port", "0", *words)
            self.assertEqual(result.returncode, USAGE, (words, result.stderr))

    def test_a_signal_in_mid_stream(self):
        with Server("serve", "--port", "0", "-np", "1") as server:
            server.wait_for("ready")
            body = {"messages": [{"role": "user", "content": "Tell me a story."}], "stream": True, "ignore_eos": True}
            request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as response:
                self.assertTrue(response.readline().startswith(b"data: "))
                server.process.send_signal(signal.SIGINT)
                rest = response.read().decode()
            self.assertIn("data: ", rest)
            self.assertEqual(server.process.wait(20), OK)

    def test_a_second_signal_ends_at_once(self):
        with Server("serve", "--port", "0", "-np", "1") as server:
            server.wait_for("ready")
            body = {"prompt": "a", "stream": True, "ignore_eos": True, "n_predict": 8000}
            request = urllib.request.Request(server.url + "/completion", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as response:
                response.readline()
                server.process.send_signal(signal.SIGTERM)
                server.wait_for("stopping")
                server.process.send_signal(signal.SIGTERM)
                self.assertIn(server.process.wait(20), (OK, TERMINATED))  # 0: the answer was done by then


class LargeModel(unittest.TestCase):
    """With weights that count: half a gigabyte, random."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.model = pathlib.Path(cls.directory.name) / "large.gguf"
        made = run("synth", cls.model, "--size", "0.8B", "-q", timeout=300)
        assert made.returncode == OK, made.stderr

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def test_a_process_takes_what_its_plan_says(self):
        words = ["-m", self.model, "-c", "8192", "-np", "2", "-ctk", "q8_0", "-ctv", "q8_0"]
        plan = json.loads(run("plan", *words, "--json").stdout)
        with Server("serve", *words, "--port", "0") as server:
            server.wait_for("ready", 300)
            prompt = "hello " * (30 if SANITIZED else 600)
            status, _ = server.request("/completion", {"prompt": prompt, "n_predict": 4}, 300)
            self.assertEqual(status, 200)
            text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
            resident = int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024
            self.assertEqual(server.end(), OK)
        ratio = plan["total_bytes"] / resident
        print(f"plan {plan['total_bytes'] / 2**20:.1f} MiB, resident {resident / 2**20:.1f} MiB, ratio {ratio:.4f}", file=sys.stderr)
        if not SANITIZED:
            self.assertAlmostEqual(ratio, 1, delta=PLAN_TOLERANCE)

    def test_more_than_the_machine_has_is_refused_with_the_sizes(self):
        result = run("serve", "-m", self.model, "--port", "0", "-c", str(1 << 26), "-np", "256", timeout=300)
        self.assertEqual(result.returncode, FIT, result.stderr)
        self.assertIn("MiB are available", result.stderr)

    def test_a_signal_while_the_model_loads(self):
        with Server("serve", "-m", self.model, "--port", "0") as server:
            server.wait_for("listening")
            self.assertEqual(server.request("/health")[0], 503)
            self.assertEqual(server.end(), TERMINATED, "nothing to finish: at once")
            self.assertNotIn("ready", server.log)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
