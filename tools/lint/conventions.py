#!/usr/bin/env python3
"""Checks what a formatter cannot: file lengths, sizes, leftovers. Run from the root of the repository."""
import pathlib
import re
import subprocess
import sys

MAX_LINES = 600  # a longer file holds two ideas
MAX_BYTES = 1_000_000
LARGE_FILES = {"models/demo/freelunch-demo-q8_0.gguf"}
SOURCE = {".cpp", ".h", ".cu", ".cuh", ".py", ".ts", ".js", ".mjs", ".sh"}
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def main() -> int:
    problems = []
    files = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        path = pathlib.Path(name)
        if not path.exists():
            continue
        if path.stat().st_size > MAX_BYTES and name not in LARGE_FILES:
            problems.append(f"{name}: {path.stat().st_size} bytes, more than {MAX_BYTES}")
        if path.suffix not in SOURCE or name == "tools/lint/conventions.py":
            continue
        lines = path.read_text(encoding="utf-8").split("\n")
        if len(lines) > MAX_LINES + 1:
            problems.append(f"{name}: {len(lines)} lines, more than {MAX_LINES}")
        for number, line in enumerate(lines, 1):
            if LEFTOVER.search(line):
                problems.append(f"{name}:{number}: leftover: {line.strip()[:80]}")
            if path.suffix in {".h", ".cuh"} and number == 1 and not line.startswith("//"):
                problems.append(f"{name}: a header starts with a sentence about what it holds")
    print("\n".join(problems) or f"conventions: {len(files) - 1} files")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
