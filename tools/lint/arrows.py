#!/usr/bin/env python3
"""Checks that every room includes only the rooms that its CMakeLists.txt names in DEPS, and that DEPS has no cycle.

Run from the root of the repository. Prints one line a violation; exit code 1 if there is any.
"""
import pathlib
import re
import sys

SRC = pathlib.Path("src")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.M)
DEPS = re.compile(r"fl_room\(\s*\w+(?:\s+LIGHT)?(?:\s+DEPS\s+([a-z\s]+?))?(?:\s+(?:LIBS|EXCLUDE)\b.*)?\)", re.S)


def deps_of(room: pathlib.Path) -> set[str]:
    text = re.sub(r"#.*", "", (room / "CMakeLists.txt").read_text())
    match = DEPS.search(text)
    if not match:
        sys.exit(f"{room}/CMakeLists.txt: no fl_room(...) found")
    return set((match.group(1) or "").split())


def main() -> int:
    rooms = {p.parent.name: p.parent for p in sorted(SRC.glob("*/CMakeLists.txt"))}
    deps = {name: deps_of(path) for name, path in rooms.items()}
    problems = []

    def reach(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            problems.append("cycle of rooms: " + " -> ".join((*trail, name)))
            return
        for dep in sorted(deps.get(name, ())):
            reach(dep, (*trail, name))

    for name, path in rooms.items():
        reach(name, ())
        allowed = deps[name] | {name}
        for file in sorted(path.rglob("*")):
            if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
                continue
            for target in INCLUDE.findall(file.read_text()):
                if target in rooms and target not in allowed:
                    problems.append(f"{file}: includes room '{target}', but '{name}' may only use {sorted(allowed)}")
        if not (path / "README.md").exists():
            problems.append(f"{path}: no README.md")
    print("\n".join(sorted(set(problems))) or f"arrows: {len(rooms)} rooms, all includes within their DEPS")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
