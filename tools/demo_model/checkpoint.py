"""A trained model as Hugging Face files, and back."""
import json
import os

import torch

from model import CONFIG, DemoModel, full_attention_layers
from tokenizer import END_OF_TEXT

FILE_LIMIT = 15 << 20  # bytes of tensors in one file
_ROPE = ("rope_theta", "partial_rotary_factor", "mrope_section")


def transformers_config(c):
    kinds = ["full_attention" if full else "linear_attention" for full in full_attention_layers(c)]
    return {k: v for k, v in c.items() if k not in _ROPE} | {
        "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "layer_types": kinds, "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "mamba_ssm_dtype": "float32",
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "initializer_range": 0.02, "use_cache": True,
        "dtype": "bfloat16", "eos_token_id": END_OF_TEXT, "bos_token_id": None, "pad_token_id": END_OF_TEXT,
        "rope_parameters": {"rope_type": "default", "mrope_interleaved": True} | {k: c[k] for k in _ROPE}}


def _exported(model):
    """bf16, except A_log and the gated norm, which published checkpoints keep in float32."""
    def kind(name):
        return torch.float32 if name.endswith(("A_log", "linear_attn.norm.weight")) else torch.bfloat16
    return {n: p.detach().to("cpu", kind(n)).contiguous() for n, p in model.state_dict().items()}


def save(model, folder):
    """Writes model-0000i-of-0000n.safetensors, their index and config.json; each file is replaced in one step."""
    from safetensors.torch import save_file
    os.makedirs(folder, exist_ok=True)
    files, size = [{}], 0
    for name, tensor in _exported(model).items():
        n_bytes = tensor.numel() * tensor.element_size()
        if size + n_bytes > FILE_LIMIT:
            files.append({})
            size = 0
        files[-1][name] = tensor
        size += n_bytes
    where, total = {}, 0
    for i, tensors in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        save_file(tensors, f"{folder}/{name}.part", metadata={"format": "pt"})
        os.replace(f"{folder}/{name}.part", f"{folder}/{name}")
        where |= {n: name for n in tensors}
        total += sum(t.numel() * t.element_size() for t in tensors.values())
    with open(f"{folder}/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": where}, f, indent=1)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(transformers_config(model.c), f, indent=1)


def load(folder, device="cpu"):
    """The model in float32, ready for evaluation."""
    from safetensors.torch import load_file
    with open(f"{folder}/config.json") as f:
        stored = json.load(f)
    stored |= stored.pop("rope_parameters")
    model = DemoModel({k: stored[k] for k in CONFIG})
    with open(f"{folder}/model.safetensors.index.json") as f:
        files = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {n: t.float() for name in files for n, t in load_file(f"{folder}/{name}").items()}
    model.load_state_dict(tensors)
    return model.to(device).eval()
