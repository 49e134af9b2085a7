"""`freelunch report` as a user meets it, against a server that answers from a clock: the whole run, kill -9 and resume, bad
servers, full disks, peers that are started, history and comparison. usage: report.py PROGRAM [unittest arguments]
"""
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from fake_server import FakeServer  # noqa: E402

PROGRAM = sys.argv.pop(1)
SOURCE = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads((SOURCE / "docs/report-schema.json").read_text())
FAST = ["--tokens", "16", "--sample-seconds", "0", "--quiet"]
SMALL = [*FAST, "--prompt-tokens", "32", "--chats", "1,2", "--depth", "empty,full", "--tasks", "none"]
ONE_CELL = [*FAST, "--chats", "1", "--depth", "empty"]
N_BATCHES = 2 * 2 * 3  # chats x depths x repeats
TIMEOUT = 120


def check_schema(value, schema, where="report"):
    """The part of JSON Schema that the published schema uses."""
    if "$ref" in schema:
        return check_schema(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    kind = schema["type"]
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    assert isinstance(value, types[kind]) and (kind == "boolean" or not isinstance(value, bool)), f"{where}: not {kind}"
    if "const" in schema:
        assert value == schema["const"], where
    if kind == "array":
        for i, item in enumerate(value):
            check_schema(item, schema["items"], f"{where}/{i}")
    if kind == "object":
        for name in schema["required"]:
            assert name in value, f"{where}/{name} is missing"
        for name, item in value.items():
            check_schema(item, schema["properties"][name], f"{where}/{name}")


class Report(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = pathlib.Path(self.folder.name) / "out"
        self.history = pathlib.Path(self.folder.name) / "history.sqlite"

    def tearDown(self):
        self.folder.cleanup()

    def command(self, *arguments, out=None):
        return [PROGRAM, "report", "--out", str(out or self.out), "--history-db", str(self.history), *arguments]

    def run_report(self, *arguments, out=None, **popen):
        return subprocess.run(self.command(*arguments, out=out), capture_output=True, text=True, timeout=TIMEOUT, **popen)

    def document(self, out=None):
        document = json.loads(((out or self.out) / "report.json").read_text())
        check_schema(document, SCHEMA)
        for name in ("report.md", "report.html"):
            self.assertTrue(((out or self.out) / name).stat().st_size > 0)
        return document

    def batches(self):
        """(cell, repeat) of every measured batch in the journal, in order."""
        found = []
        for line in (self.out / "journal.jsonl").read_text().splitlines()[1:]:
            record = json.loads(line[17:])
            if record["type"] == "batch" and record["kind"] == "measure":
                found.append((record["ctx"], record["chats"], record["depth"], record["repeat"]))
        return found

    def test_whole_run(self):
        with FakeServer() as server:
            done = self.run_report("--url", server.url, *SMALL)
            self.assertEqual(done.returncode, 0, done.stderr)
            document = self.document()
        self.assertTrue(document["run"]["complete"])
        self.assertTrue(document["integrity"]["valid"])
        self.assertEqual(document["server"]["token_counts"], "usage")
        self.assertEqual(document["server"]["prefix_reuse"], "reported")
        self.assertEqual(len(document["cells"]), 4)
        for cell in document["cells"]:
            self.assertEqual((cell["status"], cell["n_repeats"]), ("ok", 3))
            self.assertEqual(cell["n_requests"], 3 * cell["chats"])
        full = [cell for cell in document["cells"] if cell["depth"] == "full" and cell["chats"] == 1][0]
        self.assertGreater(full["depth_tokens"], 0.85 * 2048)
        self.assertGreater(full["cached_share"], 0.9)
        # Every prompt is new: no text was sent twice, except a window's content as its filling and its first turn.
        self.assertEqual(len(server.asked), len(set(server.asked)))
        self.assertEqual([p["name"] for p in document["recommendation"]["profiles"]],
                         ["chat", "long-files", "coding", "agents"])

    def test_a_repeat_writes_for_a_while(self):
        with FakeServer() as server:
            done = self.run_report("--url", server.url, "--tokens", "16", "--quiet", "--chats", "1", "--depth", "empty",
                                   "--sample-seconds", "0.5", "--tasks", "none")
            self.assertEqual(done.returncode, 0, done.stderr)
        cell = self.document()["cells"][0]
        self.assertGreaterEqual(cell["n_repeats"], 3)
        # 16 tokens of a millisecond each: several batches of one request are one repeat.
        self.assertGreater(cell["n_requests"], 2 * cell["n_repeats"])
        self.assertEqual(cell["decode_tokens_per_second_total"]["n"], cell["n_repeats"])

    def test_repeats_are_interleaved_over_the_matrix(self):
        with FakeServer() as server:
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
            order = [(chats, repeat) for _, chats, _, repeat in self.batches()]
            self.assertEqual(list(dict.fromkeys(order)), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)])
            self.assertEqual(self.document()["run"]["plan"]["walks"], 3)
            # A window is filled anew each time, with a text that no walk before has left in the server's cache.
            self.assertEqual(len(server.asked), len(set(server.asked)))
            fills = [sample for sample in self.document()["samples"] if sample["kind"] == "fill"]
            self.assertEqual(len(fills), 3 * (1 + 2))
            self.assertEqual({sample["cached_tokens"] for sample in fills}, {0})

    def test_without_time_for_three_walks_a_configuration_is_measured_at_once(self):
        peer = (f"{sys.executable} {SOURCE}/tests/apps/fake_server.py --port {{port}} --ctx {{ctx}} --chats {{chats}}"
                " --start-seconds 0.8")
        done = self.run_report("--server-cmd", peer, "--ctx", "2k", *SMALL, "--budget", "7s")
        self.assertEqual(done.returncode, 0, done.stderr)
        order = [(chats, repeat) for _, chats, _, repeat in self.batches()]
        self.assertEqual(list(dict.fromkeys(order)), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)])
        self.assertEqual(self.document()["run"]["plan"]["walks"], 1)

    def test_the_first_cell_is_measured_again(self):
        with FakeServer() as server:
            done = self.run_report("--url", server.url, *SMALL)
            self.assertEqual(done.returncode, 0, done.stderr)
        drift = self.document()["drift"]
        self.assertEqual((drift["cell"], [point["after"] for point in drift["points"]]), ("8192x1 empty", [2]))
        self.assertEqual(drift["points"][0]["again"]["n"], 3)

    def test_killed_at_any_moment(self):
        rng = random.Random(5)
        with FakeServer() as server:
            command = self.command("--url", server.url, *SMALL)
            kills = 0
            for _ in range(12):
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(rng.uniform(0.02, 0.7))
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += process.returncode == -signal.SIGKILL
                if process.returncode == 0:
                    break
            self.assertGreater(kills, 0)
            acknowledged = self.batches() if (self.out / "journal.jsonl").exists() else []
            if process.returncode != 0:
                done = self.run_report("--url", server.url, *SMALL)
                self.assertEqual(done.returncode, 0, done.stderr)
            resumed = self.document()
            batches = self.batches()
            self.assertEqual(batches[:len(acknowledged)], acknowledged)  # nothing acknowledged is lost
            self.assertEqual(len(batches), len(set(batches)))  # nothing is measured twice
            self.assertEqual(len(batches), N_BATCHES)
            straight_out = pathlib.Path(self.folder.name) / "straight"
            done = self.run_report("--url", server.url, *SMALL, out=straight_out)
            self.assertEqual(done.returncode, 0, done.stderr)
            straight = self.document(straight_out)

        def shape(document):
            return [(c["id"], c["status"], c["n_repeats"], c["n_requests"], c["n_not_ok"]) for c in document["cells"]]
        self.assertEqual(shape(resumed), shape(straight))
        self.assertTrue(resumed["run"]["complete"])

    def test_profiles_are_measured_again_at_the_end(self):
        arguments = ["0.1" if argument == "0" else argument for argument in SMALL]  # seconds of a repeat
        with FakeServer() as server:
            done = self.run_report("--url", server.url, *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            straight = self.document()
            n_walks = 3 * 4  # repeats x cells
            kept = [record for record in self.batches() if record[3] <= 3]
            self.assertEqual(len(set(kept)), n_walks)
            # Killed in the last phase: it goes on with what is left of it.
            journal = self.out / "journal.jsonl"
            lines = journal.read_text().splitlines(keepends=True)
            begun = [i for i, line in enumerate(lines) if '"profile_visits"' in line]
            self.assertEqual(len(begun), 2)
            torn = (begun[0] + begun[1]) // 2
            journal.write_text("".join(lines[:torn]) + lines[torn][:9])
            done = self.run_report("--url", server.url, *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual("".join(lines[:torn]), "".join(journal.read_text().splitlines(keepends=True)[:torn]))
        for document in (straight, self.document()):
            self.assertTrue(document["run"]["complete"])
            profiles = {profile["cell"] for profile in document["recommendation"]["profiles"]}
            for cell in document["cells"]:
                self.assertGreaterEqual(cell["n_repeats"], 4 if cell["id"] in profiles else 3, cell["id"])
            self.assertIn("measured again at the end", json.dumps(document["run"]["plan"]["decisions"]))
        profiles = [[profile["cell"] for profile in document["recommendation"]["profiles"]]
                    for document in (straight, self.document())]
        self.assertEqual(*profiles)

    def test_killed_before_the_report_was_written(self):
        with FakeServer() as server:
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
            before = (self.out / "report.json").read_bytes()
            journal = self.out / "journal.jsonl"
            lines = journal.read_text().splitlines(keepends=True)
            self.assertIn('"end"', lines[-1])
            journal.write_text("".join(lines[:-1]) + lines[-1][:9])  # the end is torn
            (self.out / "report.json").unlink()
            n_asked = len(server.asked)
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
            self.assertEqual((self.out / "report.json").read_bytes(), before)
            self.assertEqual(len(server.asked), n_asked)

    def test_interrupt_keeps_everything(self):
        with FakeServer(token_seconds=0.01) as server:
            process = subprocess.Popen(self.command("--url", server.url, *SMALL), stderr=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, text=True)
            while len(server.finished) < 5:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            self.assertEqual(process.returncode, 130, said)
            self.assertIn("to go on, give the same command again", said)
            partial = self.document()
            self.assertFalse(partial["run"]["complete"])
            kept = self.batches()
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
            self.assertEqual(self.batches()[:len(kept)], kept)
            self.assertTrue(self.document()["run"]["complete"])

    def unfinished(self, server):
        """Leaves an unfinished run: the server fails after some chats."""
        done = self.run_report("--url", server.url, *SMALL)
        self.assertEqual(done.returncode, 7, done.stderr)

    def test_changed_settings_refuse_to_resume(self):
        with FakeServer(mode="500", fail_after=16) as server:
            self.unfinished(server)
            done = self.run_report("--url", server.url, *SMALL, "--repeats", "4")
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("options/repeats was 3, now 4", done.stderr)
            server.fail_after = 1 << 30
            done = self.run_report("--url", server.url, *SMALL, "--repeats", "4", "--fresh")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(list(self.out.glob("journal-*.jsonl"))), 1)

    def test_another_server_refuses_to_resume(self):
        with FakeServer(mode="500", fail_after=16) as server:
            self.unfinished(server)
            server.fail_after = 1 << 30
            server.window = 1024
            done = self.run_report("--url", server.url, *SMALL)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("is not the one that was measured", done.stderr)

    def expect_failure(self, mode, code, text, **server_options):
        with FakeServer(mode=mode, **server_options) as server:
            done = self.run_report("--url", server.url, *SMALL, "--request-timeout", "5")
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(text, done.stderr)
        document = self.document()
        self.assertFalse(document["integrity"]["valid"])
        return document

    def test_dead_url(self):
        done = self.run_report("--url", "http://127.0.0.1:9", *SMALL)
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertIn("127.0.0.1", done.stderr)
        self.assertFalse(self.document()["run"]["complete"])

    def test_server_answers_500(self):
        self.expect_failure("500", 7, "the model is on fire")

    def test_server_answers_500_later(self):
        document = self.expect_failure("500", 7, "repeats in a row", fail_after=10)
        self.assertGreater(document["integrity"]["n_error"], 0)
        self.assertIn("the model is on fire", json.dumps(document["samples"]))

    def test_stream_breaks(self):
        document = self.expect_failure("drop", 7, "the answer ended without a finish_reason", fail_after=9)
        self.assertGreater(document["integrity"]["n_truncated"], 0)
        self.assertFalse(document["run"]["complete"])

    def test_stream_always_breaks(self):
        self.expect_failure("drop", 7, "truncated")

    def test_garbage(self):
        self.expect_failure("garbage", 7, "not a JSON object")

    def test_model_that_never_stops(self):
        self.expect_failure("endless", 7, "does not stop at max_tokens")

    def test_silent_server(self):
        with FakeServer(mode="silent", fail_after=7) as server:
            done = self.run_report("--url", server.url, *ONE_CELL, "--tasks", "none", "--request-timeout", "1")
        self.assertEqual(done.returncode, 9, done.stderr)
        self.assertIn("time-outs", done.stderr)
        self.assertGreater(self.document()["integrity"]["n_timeout"], 0)

    def test_more_than_one_percent_not_ok(self):
        with FakeServer(mode="drop", fail_after=46) as server:
            done = self.run_report("--url", server.url, *SMALL)
        self.assertEqual(done.returncode, 9, done.stderr)
        document = self.document()
        self.assertTrue(document["run"]["complete"])
        self.assertGreater(document["integrity"]["n_truncated"], 0)
        flagged = {flag["code"] for cell in document["cells"] for flag in cell["flags"]}
        self.assertIn("truncated", flagged)

    def test_usage_is_missing(self):
        with FakeServer(mode="nousage") as server:
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
        self.assertEqual(self.document()["server"]["token_counts"], "tokenizer")

    def test_usage_and_tokenizer_are_missing(self):
        with FakeServer(mode="nousage", tokenizer=False, window=8192) as server:
            done = self.run_report("--url", server.url, *SMALL, "--fresh")
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([path.name for path in self.out.glob("journal*")], ["journal.jsonl"])
        document = self.document()
        self.assertEqual(document["server"]["token_counts"], "chunks")
        self.assertIn("sends no usage", json.dumps(document["server"]["notes"]))
        flagged = {flag["code"] for cell in document["cells"] for flag in cell["flags"]}
        self.assertIn("counted_by_chunks", flagged)

    def test_usage_lies(self):
        with FakeServer(mode="lie") as server:
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
        document = self.document()
        self.assertEqual(document["server"]["token_counts"], "tokenizer")
        self.assertIn("usage is not believed", json.dumps(document["server"]["notes"]))
        measured = [s["completion_tokens"] for s in document["samples"] if s["kind"] == "measure"]
        self.assertTrue(all(16 <= n <= 48 for n in measured), measured)

    def test_usage_lies_about_answers(self):
        with FakeServer(mode="lie_answers") as server:
            self.assertEqual(self.run_report("--url", server.url, *SMALL).returncode, 0)
        flagged = {flag["code"] for cell in self.document()["cells"] for flag in cell["flags"]}
        self.assertIn("usage_disagrees", flagged)

    def test_server_without_extensions(self):
        with FakeServer(mode="strict") as server:
            done = self.run_report("--url", server.url, *SMALL)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("refuses ignore_eos", json.dumps(self.document()["server"]["notes"]))

    def test_full_disk(self):
        with FakeServer() as server:
            def limit():
                resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
            done = self.run_report("--url", server.url, *SMALL, preexec_fn=limit)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("cannot write", done.stderr)
            kept = self.batches()
            n_before = len(server.finished)
            self.assertLess(len(kept), N_BATCHES)
            done = self.run_report("--url", server.url, *SMALL)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.batches()[:len(kept)], kept)
            self.assertEqual(len(self.batches()), N_BATCHES)
            self.assertGreater(len(server.finished), n_before)

    def test_tasks_that_cannot_run(self):
        wrong = pathlib.Path(self.folder.name) / "HumanEval.jsonl"
        wrong.write_text('{"task_id": "x"}\n')
        with FakeServer() as server:
            flags = ONE_CELL
            done = self.run_report("--url", server.url, *flags, "--tasks", f"humaneval={wrong}")
            self.assertEqual(done.returncode, 3, done.stderr)
            document = self.document()
            self.assertTrue(document["run"]["complete"])
            self.assertFalse(document["quality"]["measured"])
            self.assertNotEqual(document["quality"]["reason"], "")
            # On a machine without Python the speeds are measured and the missing score is explained.
            command = ["bwrap", "--dev-bind", "/", "/", "--bind", "/dev/null", "/usr/bin/python3",
                       *self.command("--url", server.url, *flags, "--tasks", "builtin", "--fresh")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            self.assertEqual(done.returncode, 8, done.stderr)
            self.assertIn("python3", done.stderr)
            document = self.document()
            self.assertFalse(document["quality"]["measured"])
            self.assertEqual(document["cells"][0]["status"], "ok")

    def test_a_peer_is_started_for_each_configuration(self):
        peer = f"{sys.executable} {SOURCE}/tests/apps/fake_server.py --port {{port}} --ctx {{ctx}} --chats {{chats}} --fail-above 4096"
        done = self.run_report("--server-cmd", peer, "--ctx", "2k,4k,8k", *SMALL)
        self.assertEqual(done.returncode, 0, done.stderr)
        document = self.document()
        by_id = {cell["id"]: cell for cell in document["cells"]}
        self.assertEqual(by_id["4096x2 full"]["status"], "ok")
        self.assertEqual(by_id["8192x1 empty"]["status"], "failed")
        self.assertIn("no memory for a context of this size", by_id["8192x1 empty"]["reason"])
        self.assertIsNotNone(by_id["2048x1 empty"]["memory"]["bytes"])
        largest = {entry["chats"]: entry for entry in document["recommendation"]["largest_context"]}
        self.assertEqual((largest[2]["ctx"], largest[2]["at_end"]), (4096, False))

    def test_time_of_a_server_that_does_not_start_goes_to_the_others(self):
        peer = f"{sys.executable} {SOURCE}/tests/apps/fake_server.py --port {{port}} --ctx {{ctx}} --chats {{chats}} --fail-above 4096"
        # What was planned for 128k, about a minute, leaves nothing to the half windows of two chats; then it is free.
        done = self.run_report("--server-cmd", peer, "--ctx", "2k,64k,128k", *FAST, "--prompt-tokens", "32", "--chats", "1,2,4",
                               "--tasks", "none", "--budget", "12s")
        self.assertEqual(done.returncode, 0, done.stderr)
        small = {cell["id"]: (cell["status"], cell["reason"]) for cell in self.document()["cells"] if cell["ctx"] == 2048}
        self.assertEqual(len(small), 9)
        self.assertEqual({status for status, _ in small.values()}, {"ok"}, small)

    def test_a_context_beyond_the_training_is_not_started(self):
        model = str(SOURCE / "models/demo/freelunch-demo-q8_0.gguf")
        done = self.run_report("--model", model, "--ctx", "512,16k", *FAST, "--prompt-tokens", "32", "--chats", "1,2", "--depth",
                               "empty", "--tasks", "none", "--budget", "60s", "--repeats", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("more for one chat than the 8192 tokens that the model was trained for", done.stderr)
        self.assertIn("16k x 1", done.stderr)
        document = self.document()
        by_id = {cell["id"]: cell for cell in document["cells"]}
        self.assertEqual(by_id["16384x1 empty"]["status"], "cut")
        self.assertEqual({by_id[name]["status"] for name in ("512x1 empty", "512x2 empty", "16384x2 empty")}, {"ok"})
        self.assertNotIn("16384x1", {f"{c['ctx']}x{c['chats']}" for c in document["configurations"]})
        done = self.run_report("--model", model, "--ctx", "64k,128k", "--chats", "4", "--tasks", "none", "--fresh")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("at most 32768", done.stderr)

    def check_peer(self, make, name, counts, reuse):
        peer = f"{sys.executable} {SOURCE}/tests/apps/fake_server.py --port {{port}} --ctx {{ctx}} --chats {{chats}} --make {make}"
        done = self.run_report("--server-cmd", peer, "--ctx", "2k,4k", *SMALL)
        self.assertEqual(done.returncode, 0, done.stderr)
        document = self.document()
        server = document["server"]
        self.assertEqual((server["name"], server["token_counts"], server["prefix_reuse"]), (name, counts, reuse))
        self.assertEqual({cell["status"] for cell in document["cells"]}, {"ok"})
        for sample in document["samples"]:
            if sample["kind"] == "measure":
                self.assertGreaterEqual(sample["completion_tokens"], 16)
                # The first chunk is that with text: one that holds the role alone comes before a token was computed.
                self.assertGreater(sample["ttft_seconds"], 0.0009)
        return document

    def test_a_peer_with_the_habits_of_llama_server(self):
        document = self.check_peer("llama", "llama-server", "usage", "reported")
        self.assertEqual(document["model"]["n_params"], 9)
        self.assertTrue(all(s["ttfa_seconds"] > s["ttft_seconds"] for s in document["samples"] if s["kind"] == "measure"))

    def test_a_peer_with_the_habits_of_vllm(self):
        document = self.check_peer("vllm", "vllm", "usage", "unstated")
        self.assertEqual(document["server"]["version"], "0.11.0")
        self.assertTrue(all(s["ttfa_seconds"] > s["ttft_seconds"] for s in document["samples"] if s["kind"] == "measure"))

    def test_a_peer_that_has_only_the_api_of_openai(self):
        document = self.check_peer("plain", "fake", "usage", "unstated")
        self.assertNotIn("ceilings", document)
        self.assertIn("does not measure", (self.out / "report.md").read_text())

    def test_history_and_comparison(self):
        with FakeServer() as server:
            ids = []
            for name in ("one", "two"):
                out = pathlib.Path(self.folder.name) / name
                flags = [*ONE_CELL, "--tasks", "none", "--prompt-tokens", "32" if name == "one" else "24"]
                self.assertEqual(self.run_report("--url", server.url, *flags, out=out).returncode, 0)
                ids.append(self.document(out)["run"]["id"])
        listed = json.loads(self.run_report("--history", "--json").stdout)
        self.assertEqual({row["id"] for row in listed}, set(ids))
        comparison = json.loads(self.run_report("--compare", ids[0], str(pathlib.Path(self.folder.name) / "two"), "--json").stdout)
        self.assertEqual([(c["what"], c["before"], c["after"]) for c in comparison["changes"]], [("prompt tokens", "32", "24")])
        self.assertEqual(len(comparison["cells"]), 1)
        text = self.run_report("--compare", *ids).stdout
        self.assertIn("2048x1 empty" if "2048x1 empty" in text else "8192x1 empty", text)
        self.assertEqual(self.run_report("--compare", "nobody", ids[0]).returncode, 3)

    def test_bad_flags(self):
        for flags in (["--ctx", "16q"], ["--chats", "0"], ["--depth", "deep"], ["--budget", "soon"], ["--url", "ftp://x"],
                      ["--server-cmd", "server --port {port}"], ["--unknown"]):
            done = self.run_report(*flags)
            self.assertEqual(done.returncode, 2, (flags, done.stderr))


if __name__ == "__main__":
    unittest.main()
