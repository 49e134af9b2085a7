"""Logits of the committed model by the official implementation: `python3 golden.py CHECKPOINT OUT` writes demo.json and demo.f32.

The checkpoint's matrices are first rounded to Q8_0 as `freelunch convert --type q8_0` rounds them, so that a test can compare
with the weights that the GGUF file holds, exactly. The prompts are chats rendered by the project's template.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

import tool_calls
from template import NO_THOUGHT, Turn, question_prompt

BLOCK = 32
ROWS_FROM_END = 6


def round_q8_0(matrix):
    """A float32 matrix through Q8_0 and back: blocks of 32 along rows, an f16 scale, half away from zero."""
    x = matrix.reshape(-1, BLOCK).astype(np.float32)
    scale = (np.abs(x).max(1) / np.float32(127)).astype(np.float16).astype(np.float32)[:, None]
    q = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0).astype(np.float64)
    q = np.clip(np.trunc(q + np.copysign(0.5, q)), -127, 127).astype(np.float32)
    return (q * scale).reshape(matrix.shape)


def is_matrix(name, tensor):
    return tensor.ndim == 2 and "conv1d" not in name


def write_rounded(folder, out):
    """The checkpoint in float32 with every matrix rounded to Q8_0."""
    import torch
    from safetensors.torch import load_file, save_file
    with open(f"{folder}/model.safetensors.index.json") as f:
        files = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for name in files:
        for n, t in load_file(f"{folder}/{name}").items():
            t = t.float()
            tensors[n] = torch.from_numpy(round_q8_0(t.numpy())) if is_matrix(n, t) else t
    save_file(tensors, f"{out}/model.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/config.json") as f:
        config = json.load(f) | {"dtype": "float32"}
    with open(f"{out}/config.json", "w") as f:
        json.dump(config, f)
    shutil.copy(f"{folder}/tokenizer.json", out)


def prompts():
    import random
    r = random.Random(5)
    tools = tool_calls.offer(r, True, 2)
    return {"hello": question_prompt([Turn("user", "Hello!")]),
            "code": question_prompt([Turn("user", "Write a Python function add(a, b) that returns the sum of a and b.")], think=True),
            "tool": question_prompt([Turn("user", tools[0].kind["requests"][0].format(*tools[0].values(r)))], tool_calls.system_text(tools)),
            "answered": question_prompt([Turn("user", "What is freelunch?")]) + "freelunch is an inference engine and benchmark",
            "broken off": NO_THOUGHT + "naïve café – 東京 🙂 \t\r\n  def f(x):\n        return x"}


def export(folder, out):
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3_5ForCausalLM
    with tempfile.TemporaryDirectory() as rounded:
        write_rounded(folder, rounded)
        tokenizer = Tokenizer.from_file(f"{rounded}/tokenizer.json")
        model = Qwen3_5ForCausalLM.from_pretrained(rounded, dtype=torch.float32, attn_implementation="eager").eval()
    cases, rows_out = [], []
    for name, text in prompts().items():
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
        rows = sorted({0, 1, *range(max(0, len(ids) - ROWS_FROM_END), len(ids))})
        cases.append({"name": name, "text": text, "tokens": ids, "rows": rows, "offset": sum(len(r) for r in rows_out)})
        rows_out += [logits[i].astype("<f4") for i in rows]
    out = pathlib.Path(out)
    np.concatenate(rows_out).tofile(out / "demo.f32")
    (out / "demo.json").write_text(json.dumps({"vocab": int(logits.shape[-1]), "cases": cases}, separators=(",", ":")))
    print(f"{len(rows_out)} rows of {logits.shape[-1]} logits, standard deviation {np.concatenate(rows_out).std():.2f}")


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2])
