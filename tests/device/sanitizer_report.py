"""What compute-sanitizer said, and what of it counts.

racecheck (2025.3, CUDA 13.0) is blind in one place: it takes cp.async.bulk for a write of the thread that issues it, and the
completion of an mbarrier for no order between threads. So it reports every ring of stages that one warp fills for others
(docs/decisions/0079 shows the textbook's). Such a report names our bulk copies as the write; all others count.
"""
import re

# The write of a report that is no race: these functions of this file, whoever reads.
BLIND_WRITE = re.compile(r"^fl::cuda::bulk_copy(_streamed)?\(.* in async_copy\.cuh:\d+$")
FIRST = re.compile(r"^=+ +(?:Error|Warning): Race reported between (Read|Write) access at (.*)$")
AND = re.compile(r"^=+ +and (Read|Write) access at (.*?) \[\d+ hazards\]$")
SUMMARY = re.compile(r"^=+ (?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", re.M)


def races(said):
    """[[(kind, place), ...]]: of each report of racecheck the access that it begins with, then those against it."""
    found = []
    for line in said.splitlines():
        if first := FIRST.match(line):
            found.append([first.groups()])
        elif (other := AND.match(line)) and found:
            found[-1].append(other.groups())
    return found


def is_blind(race):
    def blind(access):
        kind, place = access
        return kind == "Write" and BLIND_WRITE.match(place) is not None

    first, others = race[0], race[1:]
    return bool(others) and (blind(first) or all(blind(other) for other in others))


def judge(tool, said):
    """(errors that count, reports left out), or None when the tool did not come to its end or what it counts is not what it
    printed."""
    summary = SUMMARY.findall(said)
    if len(summary) != 1:
        return None
    counted = int(summary[0][0] or summary[0][1])
    if tool != "racecheck":
        return counted, 0
    reports = races(said)
    if counted != len(reports):
        return None
    blind = sum(map(is_blind, reports))
    return counted - blind, blind
