"""What compute-sanitizer said. Every report counts, of every tool: nothing is left out (docs/decisions/0079)."""
import re

SUMMARY = re.compile(r"^=+ (?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", re.M)


def errors(said):
    """How many, or None when the tool did not come to its end."""
    summary = SUMMARY.findall(said)
    return int(summary[0][0] or summary[0][1]) if len(summary) == 1 else None
