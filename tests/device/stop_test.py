#!/usr/bin/env python3
"""run.py that is told to stop leaves nothing behind that goes on using the device. Programs in the tests' place need none."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
RUN = pathlib.Path(__file__).with_name("run.py")
NAMES = ("test_kernels_cuda", "test_model_cuda", "test_engine_cuda")
PROGRAM = """#!/bin/sh
sleep 600 &
echo $! > {folder}/$$
wait
"""
SECONDS = 10  # until programs have started, and until they have ended


def alive(pid):
    state = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(done):
    end = time.monotonic() + SECONDS
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    return done()


class Stop(unittest.TestCase):
    def test_ends_what_is_under_way(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number), tempfile.TemporaryDirectory() as folder:
                pids = pathlib.Path(folder) / "pids"
                pids.mkdir()
                for name in NAMES:
                    program = pathlib.Path(folder) / name
                    program.write_text(PROGRAM.format(folder=pids))
                    program.chmod(0o755)
                run = subprocess.Popen([sys.executable, str(RUN), "--bin", folder, "tests"], stdout=subprocess.DEVNULL)
                self.assertTrue(until(lambda: len([p for p in pids.iterdir() if p.read_text()]) >= len(NAMES)))
                children = [int(p.read_text()) for p in pids.iterdir() if p.read_text()]
                os.kill(run.pid, number)
                self.assertEqual(run.wait(SECONDS), 128 + number)
                self.assertTrue(until(lambda: not any(alive(pid) for pid in children)))


if __name__ == "__main__":
    unittest.main()
