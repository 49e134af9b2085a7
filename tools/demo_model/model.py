"""Qwen3.5 as a small model: Gated DeltaNet and gated attention 3:1, one MTP block; the forward pass for training.

Parameter names and shapes are those of transformers' `Qwen3_5ForCausalLM` and of the `mtp.*` tensors of published checkpoints.
Several documents may share a row: `pos`, the position inside the document, resets the state, the convolution window and the
attention mask where a document begins, so each document is computed exactly as if it were alone.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from delta_rule import gated_delta_rule
from tokenizer import CONTEXT, VOCABULARY

try:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
except ImportError:  # old PyTorch: dense masks
    flex_attention = None

CONFIG = {"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
          "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "linear_num_key_heads": 4,
          "linear_num_value_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4,
          "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "max_position_embeddings": CONTEXT, "full_attention_interval": 4,
          "rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [4, 2, 2]}
NEW_DOCUMENT = 40.0  # taken off the log decay where a document begins: nothing of the old state survives


def linear(x, weight):
    """Weights are kept in float32 and used in the type of the input."""
    return F.linear(x, weight.to(x.dtype))


class RMSNorm(nn.Module):
    """The weight is stored as an offset from one."""

    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(d)), eps

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight.float())).to(x.dtype)


class RMSNormGated(nn.Module):
    """Norm of each head's output, times silu of the gate; the weight is stored plainly."""

    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x, gate):
        f = x.float()
        f = f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.float()
        return (f * F.silu(gate.float())).to(x.dtype)


class GatedDeltaNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden = c["hidden_size"]
        self.key_heads, self.value_heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
        self.head_dim, self.width = c["linear_key_head_dim"], c["linear_conv_kernel_dim"]
        self.key_dim, self.value_dim = self.key_heads * self.head_dim, self.value_heads * self.head_dim
        channels = 2 * self.key_dim + self.value_dim
        self.in_proj_qkv = nn.Linear(hidden, channels, bias=False)
        self.in_proj_z = nn.Linear(hidden, self.value_dim, bias=False)
        self.in_proj_b = nn.Linear(hidden, self.value_heads, bias=False)
        self.in_proj_a = nn.Linear(hidden, self.value_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, self.width, groups=channels, padding=self.width - 1, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(self.value_heads))
        self.A_log = nn.Parameter(torch.zeros(self.value_heads))
        self.norm = RMSNormGated(self.head_dim, c["rms_norm_eps"])
        self.out_proj = nn.Linear(self.value_dim, hidden, bias=False)

    def convolve(self, u, pos):
        """Causal depthwise convolution inside each document, then silu."""
        w = self.conv1d.weight[:, 0].to(u.dtype)
        y = u * w[:, -1]
        for s in range(1, self.width):
            y = y + F.pad(u, (0, 0, s, 0))[:, :u.shape[1]] * w[:, -1 - s] * (pos >= s)[..., None]
        return F.silu(y)

    def forward(self, x, pos):
        B, T, _ = x.shape
        q, k, v = self.convolve(linear(x, self.in_proj_qkv.weight), pos).split([self.key_dim, self.key_dim, self.value_dim], -1)
        q, k = (t.reshape(B, T, self.key_heads, self.head_dim).float() for t in (q, k))
        q, k = (t * torch.rsqrt(t.pow(2).sum(-1, keepdim=True) + 1e-6) for t in (q, k))
        q, k = (q * self.head_dim ** -0.5).to(x.dtype), k.to(x.dtype)
        beta = linear(x, self.in_proj_b.weight).float().sigmoid()
        g = -self.A_log.float().exp() * F.softplus(linear(x, self.in_proj_a.weight).float() + self.dt_bias.float())
        g = torch.where((pos == 0)[..., None], g - NEW_DOCUMENT, g)
        o = gated_delta_rule(q, k, v.reshape(B, T, self.value_heads, self.head_dim), g, beta)
        z = linear(x, self.in_proj_z.weight).view(B, T, self.value_heads, self.head_dim)
        return linear(self.norm(o, z).reshape(B, T, self.value_dim), self.out_proj.weight)


def rotary(x, cos, sin):
    """Rotates the first dimensions of each head in halves; the rest stays."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    cos, sin = cos.unsqueeze(2).to(x.dtype), sin.unsqueeze(2).to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class GatedAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden = c["hidden_size"]
        self.heads, self.kv_heads, self.head_dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim * 2, bias=False)  # query and gate, interleaved by head
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.head_dim, c["rms_norm_eps"]), RMSNorm(self.head_dim, c["rms_norm_eps"])

    def forward(self, x, cos, sin, mask):
        B, T, _ = x.shape
        q, gate = linear(x, self.q_proj.weight).view(B, T, self.heads, 2 * self.head_dim).chunk(2, -1)
        k = self.k_norm(linear(x, self.k_proj.weight).view(B, T, self.kv_heads, self.head_dim))
        v = linear(x, self.v_proj.weight).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotary(self.q_norm(q), cos, sin).transpose(1, 2), rotary(k, cos, sin).transpose(1, 2)
        if mask is None:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        elif isinstance(mask, torch.Tensor):
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        else:
            o = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        o = o.transpose(1, 2) * gate.sigmoid()
        return linear(o.reshape(B, T, self.heads * self.head_dim), self.o_proj.weight)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(hidden, inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return linear(F.silu(linear(x, self.gate_proj.weight)) * linear(x, self.up_proj.weight), self.down_proj.weight)


class DeltaLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear_attn, self.mlp = GatedDeltaNet(c), MLP(c)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(c["hidden_size"], c["rms_norm_eps"]) for _ in range(2))

    def forward(self, x, pos, cos, sin, mask):
        x = x + self.linear_attn(self.input_layernorm(x), pos)
        return x + self.mlp(self.post_attention_layernorm(x))


class AttentionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = GatedAttention(c), MLP(c)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(c["hidden_size"], c["rms_norm_eps"]) for _ in range(2))

    def forward(self, x, pos, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(AttentionLayer(c) if full else DeltaLayer(c) for full in full_attention_layers(c))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class MTP(nn.Module):
    """Multi-token prediction: from the trunk's output at t and the token at t + 1 to the token at t + 2."""

    def __init__(self, c):
        super().__init__()
        d = c["hidden_size"]
        self.fc = nn.Linear(2 * d, d, bias=False)
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden, self.norm = (RMSNorm(d, c["rms_norm_eps"]) for _ in range(3))
        self.layers = nn.ModuleList([AttentionLayer(c)])


def full_attention_layers(c):
    return [(i + 1) % c["full_attention_interval"] == 0 for i in range(c["num_hidden_layers"])]


class DemoModel(nn.Module):
    def __init__(self, c=None):
        super().__init__()
        self.c = c or CONFIG
        self.model, self.mtp = Trunk(self.c), MTP(self.c)
        n = int(self.c["head_dim"] * self.c["partial_rotary_factor"])
        self.inverse_frequencies = (1.0 / self.c["rope_theta"] ** (torch.arange(0, n, 2, dtype=torch.float64) / n)).float()

    @torch.no_grad()
    def initialise(self, seed):
        generator = torch.Generator().manual_seed(seed)
        residual = 0.6 / (2 * self.c["num_hidden_layers"]) ** 0.5
        for name, p in self.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.empty(p.shape).uniform_(0.5, 8.0, generator=generator).log())
            elif name.endswith("dt_bias"):  # decay times from a few to a few thousand tokens
                dt = torch.exp(torch.empty(p.shape).uniform_(math.log(1e-3), math.log(1e-1), generator=generator))
                p.copy_(dt + torch.log(-torch.expm1(-dt)))
            elif name.endswith("conv1d.weight"):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
                p[:, 0, -1] += 0.6
            elif "embed" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
            elif "norm" not in name:
                gain = residual if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")) else 0.6
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[1] ** -0.5 * gain)
        return self

    def forward(self, ids, pos=None, dtype=torch.float32, mask=None, mtp=True):
        """(h, m), each [B, T, hidden]: h[t] predicts token t + 1; m[t], from h[t] and the token t + 1, predicts token t + 2."""
        if pos is None:
            pos = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        angles = pos[..., None].float() * self.inverse_frequencies.to(ids.device)
        cos, sin = angles.cos(), angles.sin()
        e = F.embedding(ids, self.model.embed_tokens.weight).to(dtype)
        x = e
        for layer in self.model.layers:
            x = layer(x, pos, cos, sin, mask)
        h = self.model.norm(x)
        if not mtp:
            return h, None
        following = F.pad(e[:, 1:], (0, 0, 0, 1))
        y = torch.cat([self.mtp.pre_fc_norm_embedding(following), self.mtp.pre_fc_norm_hidden(h)], -1)
        y = self.mtp.layers[0](linear(y, self.mtp.fc.weight), pos, cos, sin, mask)
        return h, self.mtp.norm(y)

    def logits(self, h):
        return linear(h, self.model.embed_tokens.weight).float()


def head_loss(h, embeddings, targets, weights):
    """Weighted sum of the negative log-likelihoods of targets [N], from outputs h [N, hidden]."""
    logits = F.linear(h, embeddings.to(h.dtype)).float()
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def document_mask(pos, flex):
    """Causal attention inside each document of packed rows: a block mask, or a dense one [B, 1, T, T]."""
    B, T = pos.shape
    start = torch.arange(T, device=pos.device) - pos
    if flex:
        def visible(b, h, i, j):
            return (i >= j) & (start[b, i] == start[b, j])
        return create_block_mask(visible, B, None, T, T, device=pos.device, _compile=True)
    i = torch.arange(T, device=pos.device)
    return ((i[:, None] >= i[None, :]) & (start[:, :, None] == start[:, None, :])).unsqueeze(1)
