"""The demo model answers on the device as on the CPU, greedily, or leaves it only where two tokens are as good as equal."""
from machine import Server, likeliest

N_PREDICT = 48
# Of log-probabilities. The CPU's activations are int8 in groups of 32, the device's 16-bit: logits of this small model, up to about
# 20, differ by up to 1e-2 of the largest.
NEAR_TIE = 0.2
PROMPTS = (
    "Write a Python function add(a, b) that returns the sum of a and b.",
    "Write a Python function `count_big(values)` that returns how many numbers in values are greater than 17.",
    "def fibonacci(n):\n",
    "What is the capital of France?",
    "for i in range(10):\n    print(",
    "The quick brown fox",
    "1 + 1 = 2\n2 + 2 = 4\n4 + 4 =",
    "Once upon a time " * 40,
)


def compare(program, demo, results):
    flags = ("-c", "2048", "-np", "1")
    asked = {"n_probs": 5, "cache_prompt": False}
    with Server(program, demo, *flags, "-ngl", "999") as device:
        results.check("demo model: device", "cuda" in device.log_line("device: "), device.log_line("device: "), "cuda")
        on_device = [device.complete(prompt, N_PREDICT, **asked) for prompt in PROMPTS]
        # Without probabilities the device samples by itself.
        sampled = [device.complete(prompt, N_PREDICT, cache_prompt=False) for prompt in PROMPTS]
    with Server(program, demo, *flags, "--device", "none") as host:
        on_host = [host.complete(prompt, N_PREDICT, **asked) for prompt in PROMPTS]
    same, ties, wrong = 0, [], []
    for i, (mine, theirs) in enumerate(zip(on_device, on_host)):
        at = next((k for k, (a, b) in enumerate(zip(mine["tokens"], theirs["tokens"])) if a != b), None)
        if at is None:
            same += 1
            continue
        best = dict(likeliest(theirs["completion_probabilities"][at]))
        chosen, expected = mine["tokens"][at], theirs["tokens"][at]
        gap = best[expected] - best.get(chosen, float("-inf"))
        if gap < NEAR_TIE:
            ties.append(f"{gap:.3f}")
        else:
            wrong.append(f"prompt {i}, token {at}: {gap:.3f}")
    results.check("demo model: answers as on the CPU", not wrong, f"{same} equal, near-ties {ties}, others {wrong}",
                  f"{len(PROMPTS)}, differences only below {NEAR_TIE}")
    greedy = sum(a["tokens"] == b["tokens"] for a, b in zip(on_device, sampled))
    results.check("demo model: sampled on the device as by the host", greedy == len(PROMPTS), greedy, len(PROMPTS))
