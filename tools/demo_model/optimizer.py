"""Muon for the matrices of the layers, AdamW for everything else."""
import torch

# Coefficients of five quintic Newton-Schulz steps towards the nearest orthogonal matrix, tuned for few steps (Muon, Jordan et
# al. 2024; these numbers as published with the modded-nanogpt speed runs).
_STEPS = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046),
          (2.8366, -3.0525, 1.2012)]


def orthogonal(g):
    """The orthogonal factor of matrices [n, rows, columns], approximately, in bf16."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in _STEPS:
        A = x @ x.mT
        x = a * x + (b * A + c * (A @ A)) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Orthogonalised Nesterov momentum; matrices of equal shape are handled together."""

    def __init__(self, params, momentum=0.95, decay=0.02):
        self.groups, self.momentum, self.decay = {}, momentum, decay
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {s: torch.zeros(len(ps), *s, device=ps[0].device) for s, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            g, buffer = torch.stack([p.grad for p in params]), self.buffers[shape]
            buffer.lerp_(g, 1 - self.momentum)
            update = orthogonal(g.lerp(buffer, self.momentum))
            torch._foreach_mul_(params, 1 - lr * self.decay)
            torch._foreach_add_(params, list(update.unbind(0)), alpha=-lr * max(1.0, shape[0] / shape[1]) ** 0.5)


class Optimizer:
    """Both optimizers under one relative learning rate."""

    def __init__(self, model, muon_lr, adam_lr, fused):
        named = list(model.named_parameters())
        by_muon = {n for n, p in named if p.ndim == 2 and not any(k in n for k in ("embed", "in_proj_a", "in_proj_b"))}
        rest = [p for n, p in named if n not in by_muon]
        self.parameters, self.rest = [p for _, p in named], rest
        self.muon, self.muon_lr, self.adam_lr = Muon([p for n, p in named if n in by_muon]), muon_lr, adam_lr
        self.adam = torch.optim.AdamW([{"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.01},
                                       {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}],
                                      lr=adam_lr, betas=(0.9, 0.98), eps=1e-10, **({"fused": True} if fused else {}))

    def step(self, factor):
        """One step at `factor` of the peak learning rates; clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        self.muon.step(self.muon_lr * factor)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor
        self.adam.step()
        for p in self.parameters:
            p.grad = None
