#!/usr/bin/env python3
"""Writes the logits of tiny random Qwen3.5 models, computed by the official implementation, for the tests.

    python3 tools/export_golden/export.py tests/golden            # PyTorch and transformers with qwen3_5
    python3 tools/export_golden/export.py OUT --model DIR         # besides: logits of a real checkpoint, for a look by hand

Weights and prompts are functions of (seed, name, index), computed here and in tests/support/golden_model.cpp with the
same integer arithmetic, so that only the logits are stored: `tiny.json` describes the models, `tiny.f32` holds the rows
it points into. Everything runs on the CPU in float32.
"""
import argparse
import json
import pathlib

import numpy as np

MASK = (1 << 64) - 1
LENGTHS = [1, 5, 63, 64, 65, 130, 700]
# Positions around the borders of the convolution window and of chunks of 64.
ROWS = [0, 1, 2, 3, 4, 31, 62, 63, 64, 65, 127, 128, 129, 447, 448, 575, 640, 698, 699]

MODELS = [
    dict(name="tied_r1", seed=11, hidden=64, ff=160, layers=4, heads=4, kv_heads=2, head_dim=32, key_heads=2,
         value_heads=2, key_dim=16, value_dim=16, vocab=320, tied=True, sections=[2, 1, 1]),
    dict(name="untied_r3", seed=12, hidden=96, ff=256, layers=8, heads=6, kv_heads=2, head_dim=32, key_heads=2,
         value_heads=6, key_dim=32, value_dim=32, vocab=288, tied=False, sections=[2, 1, 1]),
    dict(name="tied_r2_wide_heads", seed=13, hidden=128, ff=320, layers=4, heads=2, kv_heads=1, head_dim=256,
         key_heads=2, value_heads=4, key_dim=128, value_dim=128, vocab=256, tied=True, sections=[11, 11, 10]),
    dict(name="untied_r4_yarn", seed=14, hidden=64, ff=192, layers=4, heads=4, kv_heads=1, head_dim=64, key_heads=1,
         value_heads=4, key_dim=64, value_dim=64, vocab=256, tied=False, sections=[3, 3, 2],
         yarn=dict(factor=4.0, original=128)),
    dict(name="untied_r3_unequal", seed=15, hidden=64, ff=128, layers=6, heads=3, kv_heads=3, head_dim=64, key_heads=2,
         value_heads=6, key_dim=32, value_dim=64, vocab=200, tied=False, sections=[3, 3, 2],
         kinds=["linear_attention", "full_attention", "linear_attention", "linear_attention", "linear_attention",
                "full_attention"]),
]


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def hash_stream(seed, name, n):
    """n values of splitmix64 over a counter that starts at fnv1a(name) xor seed * golden ratio."""
    base = (fnv1a(name) ^ (seed * 0x9E3779B97F4A7C15)) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(seed, name, n, centre, half_width):
    bits = (hash_stream(seed, name, n) >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return (centre + half_width * (bits.astype(np.float64) / (1 << 23))).astype(np.float32)


def weight_range(name, shape):
    """Centre and half width by the parameter's name; matrices get unit gain."""
    if name.endswith("A_log"):
        return 0.0, 2.0
    if name.endswith("dt_bias"):
        return -1.0, 2.0
    if name.endswith("linear_attn.norm.weight"):
        return 1.0, 0.5
    if name.endswith("norm.weight") or name.endswith("layernorm.weight"):
        return 0.0, 0.5
    if name.endswith("conv1d.weight"):
        return 0.0, 0.875
    if name.endswith("embed_tokens.weight"):
        return 0.0, 1.75
    return 0.0, float(np.float32(np.sqrt(3.0 / shape[-1])))


def layer_kinds(m):
    if "kinds" in m:
        return m["kinds"]
    return ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(m["layers"])]


def hf_config(m):
    from transformers import Qwen3_5TextConfig
    rope = dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25, mrope_section=m["sections"],
                mrope_interleaved=True)
    if "yarn" in m:
        rope.update(rope_type="yarn", factor=m["yarn"]["factor"], original_max_position_embeddings=m["yarn"]["original"])
    return Qwen3_5TextConfig(
        vocab_size=m["vocab"], hidden_size=m["hidden"], intermediate_size=m["ff"], num_hidden_layers=m["layers"],
        num_attention_heads=m["heads"], num_key_value_heads=m["kv_heads"], head_dim=m["head_dim"],
        linear_num_key_heads=m["key_heads"], linear_num_value_heads=m["value_heads"], linear_key_head_dim=m["key_dim"],
        linear_value_head_dim=m["value_dim"], linear_conv_kernel_dim=4, rms_norm_eps=1e-6, tie_word_embeddings=m["tied"],
        max_position_embeddings=4096, layer_types=layer_kinds(m), hidden_act="silu", attention_bias=False,
        attention_dropout=0.0, attn_output_gate=True, rope_parameters=rope, use_cache=False, pad_token_id=None,
        bos_token_id=None, eos_token_id=None)


def image_positions(n):
    """Ten tokens of text, an image of 4 x 6 merged cells, text again: (t, y, x) of every token."""
    before, rows, cols = 10, 4, 6
    out = []
    for i in range(n):
        if i < before:
            out.append([i, i, i])
        elif i < before + rows * cols:
            r, q = divmod(i - before, cols)
            out.append([before, before + r, before + q])
        else:
            p = before + max(rows, cols) + i - before - rows * cols
            out.append([p, p, p])
    return out


def run_model(m, rows_out, debug):
    import torch
    from transformers import Qwen3_5ForCausalLM
    config = hf_config(m)
    config._attn_implementation = "eager"
    model = Qwen3_5ForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            short = name.removeprefix("model.")
            centre, half = weight_range(short, p.shape)
            p.copy_(torch.from_numpy(uniform(m["seed"], short, p.numel(), centre, half)).reshape(p.shape))
    print(m["name"], sum(p.numel() for p in model.parameters()), [n for n, _ in model.named_parameters()][:14], flush=True)
    cases = []
    for n, image in [(n, False) for n in LENGTHS] + [(65, True)]:
        ids = (hash_stream(m["seed"], f"prompt/{n}", n) % np.uint64(m["vocab"])).astype(np.int64)
        kwargs = {}
        case = dict(n_tokens=n)
        if image:
            positions = image_positions(n)
            kwargs["position_ids"] = torch.tensor(positions, dtype=torch.long).T.reshape(3, 1, n)
            case["positions"] = positions
        with torch.no_grad():
            out = model(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True, **kwargs)
        logits = out.logits[0].float().numpy()
        case["rows"] = [r for r in ROWS if r < n]
        case["offset"] = sum(len(r) for r in rows_out)
        for r in case["rows"]:
            rows_out.append(logits[r].astype("<f4"))
        cases.append(case)
        if n == 65 and not image:
            for i, h in enumerate(out.hidden_states):
                debug[f"{m['name']}/{n}/hidden{i}"] = h[0].float().numpy()
    described = {k: v for k, v in m.items()}
    described["kinds"] = layer_kinds(m)
    described["cases"] = cases
    return described


def run_checkpoint(directory, out):
    """A few prompts through a real checkpoint, for a comparison by hand; not part of the stored golden data."""
    import torch
    from transformers import AutoTokenizer, Qwen3_5ForCausalLM
    model = Qwen3_5ForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    vocab = model.config.vocab_size
    prompts = {"random_200": (hash_stream(99, "prompt/200", 200) % np.uint64(vocab)).astype(np.int64)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        text = ("<|im_start|>user\nWrite a Python function that returns the sum of the even numbers of a list.<|im_end|>\n"
                "<|im_start|>assistant\n<think>\n\n</think>\n\n")
        prompts["chat"] = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
    except Exception as error:
        print("no tokenizer:", error)
    saved = {}
    for name, ids in prompts.items():
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0].float().numpy()
        rows = [r for r in ROWS + [len(ids) - 1] if r < len(ids)]
        saved[name + "/ids"] = ids
        saved[name + "/rows"] = np.array(rows)
        saved[name + "/logits"] = logits[rows]
    ids = prompts.get("chat")
    if ids is not None:
        with torch.no_grad():
            generated = model.generate(torch.from_numpy(ids)[None], max_new_tokens=80, do_sample=False)
        saved["chat/greedy"] = generated[0].numpy()
        print(repr(tokenizer.decode(generated[0])))
    np.savez_compressed(out / "checkpoint.npz", **saved)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, help="a checkpoint directory to run besides the tiny models")
    parser.add_argument("--debug", action="store_true", help="also write hidden states of one prompt a model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, debug, described = [], {}, []
    for m in MODELS:
        described.append(run_model(m, rows, debug))
        (args.out / "tiny.json").write_text(json.dumps(dict(models=described), separators=(",", ":")) + "\n")
        np.concatenate(rows).tofile(args.out / "tiny.f32")
    if args.debug:
        np.savez_compressed(args.out / "debug.npz", **debug)
    if args.model:
        run_checkpoint(args.model, args.out)
    print("bytes:", sum(f.stat().st_size for f in args.out.iterdir()))


if __name__ == "__main__":
    main()
