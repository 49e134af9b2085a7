"""The training curve as a picture: `python3 plot.py curves.csv curves.svg`. Standard library only."""
import csv
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 420, 70, 50, 20, 20
LOW, HIGH = 0.08, 10.0
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
SERIES = (("loss", "#1f5fbf", "next token (weighted loss, nats)"), ("mtp_loss", "#d9662b", "MTP block: the token after the next"))


def draw(rows):
    tokens = [int(r["tokens"]) / 1e6 for r in rows]

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * value / tokens[-1]

    def y(value):
        share = (math.log(min(max(value, LOW), HIGH)) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
        return TOP + (HEIGHT - BOTTOM - TOP) * (1 - share)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">'
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for tick in TICKS:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for tick in range(0, int(tokens[-1]) + 1, 25):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick}</text>')
    change = next(i for i, r in enumerate(rows) if r["row_length"] != rows[0]["row_length"])
    parts.append(f'<line x1="{x(tokens[change]):.1f}" x2="{x(tokens[change]):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#999" '
                 f'stroke-dasharray="4 3"/><text x="{x(tokens[change]) - 6:.1f}" y="40" text-anchor="end" fill="#555">'
                 f'rows of {rows[change]["row_length"]} tokens</text>')
    for i, (name, colour, label) in enumerate(SERIES):
        points = " ".join(f"{x(t):.1f},{y(float(r[name])):.1f}" for t, r in zip(tokens, rows))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
                     f'<text x="{LEFT + 150}" y="{TOP + 40 + 18 * i}" fill="{colour}">{label}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">million tokens</text></svg>\n')
    return "\n".join(parts)


if __name__ == "__main__":
    with open(sys.argv[1]) as curve:
        picture = draw(list(csv.DictReader(curve)))
    with open(sys.argv[2], "w") as out:
        out.write(picture)
