"""Compares the chunked delta rule, outputs and gradients, with the recurrence token by token: `python3 check_delta_rule.py`.

On a GPU in bf16 as in training, else in float32. The row holds two documents.
"""
import torch

import model
from delta_rule import gated_delta_rule

BATCH, TOKENS, KEY_HEADS, VALUE_HEADS, DIM = 2, 640, 2, 4, 64
SECOND_DOCUMENT = 200
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest value


def recurrence(q, k, v, g, beta):
    """The definition, in float64: the state decays, then is corrected by beta times its error about v at the key."""
    repeat = v.shape[2] // k.shape[2]
    q, k = (t.double().repeat_interleave(repeat, 2) for t in (q, k))
    v, g, beta = v.double(), g.double(), beta.double()
    state = torch.zeros(*v.shape[:1], *v.shape[2:], v.shape[-1], dtype=torch.float64, device=v.device)  # B heads key value
    out = []
    for t in range(v.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        error = v[:, t] - (k[:, t, :, :, None] * state).sum(2)
        state = state + beta[:, t, :, None, None] * k[:, t, :, :, None] * error[:, :, None, :]
        out.append((q[:, t, :, :, None] * state).sum(2))
    return torch.stack(out, 1)


def inputs(device, kind):
    torch.manual_seed(1)
    q, k = (torch.nn.functional.normalize(torch.randn(BATCH, TOKENS, KEY_HEADS, DIM, device=device), dim=-1) for _ in range(2))
    v = torch.randn(BATCH, TOKENS, VALUE_HEADS, DIM, device=device)
    g = -torch.rand(BATCH, TOKENS, VALUE_HEADS, device=device) * 0.1
    g[:, [0, SECOND_DOCUMENT]] -= model.NEW_DOCUMENT
    beta = torch.rand(BATCH, TOKENS, VALUE_HEADS, device=device)
    return [t.to(kind).requires_grad_() for t in (q, k, v)] + [g.requires_grad_(), beta.requires_grad_()]


def check(device, kind):
    given = inputs(device, kind)
    weights = torch.randn(BATCH, TOKENS, VALUE_HEADS, DIM, device=device)
    found, wanted = [], []
    for rule, values in ((gated_delta_rule, found), (recurrence, wanted)):
        out = rule(*given)
        values.append(out.detach().double())
        values += [t.double() for t in torch.autograd.grad((out.double() * weights).sum(), given)]
    for name, x, y in zip(("output", "dq", "dk", "dv", "dg", "dbeta"), found, wanted):
        error = ((x - y).abs().max() / y.abs().max()).item()
        print(f"{name}: difference {error:.1e} of the largest value")
        assert error < TOLERANCE[kind], name


if __name__ == "__main__":
    gpu = torch.cuda.is_available()
    check("cuda" if gpu else "cpu", torch.bfloat16 if gpu else torch.float32)
