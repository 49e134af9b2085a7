"""The chunked gated delta rule for training: exact, in batched matrix products.

With C = 64 tokens a chunk, G the running sum of the log decays and S the state (key x value) at the start of a chunk:

    A = strictly-lower(beta_i (k_i . k_j) exp(G_i - G_j)),   T = (I + A)^-1,   [U W] = T [beta V, beta e^G K]
    next state   S' = (gamma I - Kd^T W) S + Kd^T U          a linear scan of one product a chunk
    output       O  = (e^G Q) S + (tril(Q K^T) exp(G_i - G_j)) (U - W S)

(Gated DeltaNet, Yang, Kautz and Hatamizadeh 2024, section 3; everything but the scan is parallel over chunks.)
"""
import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for the CPU has no Triton
    triton = None

CHUNK = 64

if triton is not None:
    @triton.jit
    def _inverse_kernel(A, T, C: tl.constexpr):
        base = tl.program_id(0).to(tl.int64) * C * C
        o = tl.arange(0, C)
        offsets = o[:, None] * C + o[None, :]
        t = -tl.load(A + base + offsets)
        for i in range(1, C):
            row = -tl.load(A + base + i * C + o)
            row = row + tl.sum(row[:, None] * t, 0)
            t = tl.where(o[:, None] == i, row[None, :], t)
        t = t + tl.where(o[:, None] == o[None, :], 1.0, 0.0)
        tl.store(T + base + offsets, t)


@torch.library.custom_op("freelunch::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(A: torch.Tensor) -> torch.Tensor:
    """(I + A)^-1 of strictly lower triangular matrices [..., C, C]."""
    C = A.shape[-1]
    A = A.contiguous()
    if A.is_cuda and triton is not None and A.dtype == torch.float32:
        T = torch.empty_like(A)
        _inverse_kernel[(A.numel() // (C * C),)](A, T, C, num_warps=2)
        return T
    eye = torch.eye(C, dtype=A.dtype, device=A.device)
    return torch.linalg.solve_triangular(A + eye, eye.expand_as(A), upper=False, unitriangular=True).contiguous()


@unit_lower_inverse.register_fake
def _(A):
    return torch.empty_like(A, memory_format=torch.contiguous_format)


def _product_type(t):
    return torch.bfloat16 if t.is_cuda else t.dtype


def _inverse_backward(ctx, dT):
    T, = ctx.saved_tensors
    Tt = T.transpose(-1, -2).to(_product_type(T))
    return (-(Tt @ dT.to(Tt.dtype) @ Tt)).to(dT.dtype)


def _inverse_setup(ctx, inputs, output):
    ctx.save_for_backward(output)


unit_lower_inverse.register_autograd(_inverse_backward, setup_context=_inverse_setup)


@torch.library.custom_op("freelunch::chunk_scan", mutates_args=())
def chunk_scan(M: torch.Tensor, N: torch.Tensor) -> torch.Tensor:
    """S[n + 1] = M[n] S[n] + N[n] with S[0] = 0, over dimension 1 of [batch, chunks, D, D]: the states at chunk starts."""
    S = torch.zeros_like(N, memory_format=torch.contiguous_format)
    for n in range(N.shape[1] - 1):
        torch.baddbmm(N[:, n], M[:, n], S[:, n], out=S[:, n + 1])
    return S


@chunk_scan.register_fake
def _(M, N):
    return torch.empty_like(N, memory_format=torch.contiguous_format)


@torch.library.custom_op("freelunch::chunk_scan_backward", mutates_args=())
def chunk_scan_backward(M: torch.Tensor, dS: torch.Tensor) -> torch.Tensor:
    """The gradient of N: of each N[n] everything that reaches S[n + 1]."""
    D = torch.zeros_like(dS, memory_format=torch.contiguous_format)
    for n in range(dS.shape[1] - 2, -1, -1):
        if n == dS.shape[1] - 2:
            D[:, n] = dS[:, n + 1]
        else:
            torch.baddbmm(dS[:, n + 1], M[:, n + 1].transpose(1, 2), D[:, n + 1], out=D[:, n])
    return D


@chunk_scan_backward.register_fake
def _(M, dS):
    return torch.empty_like(dS, memory_format=torch.contiguous_format)


def _scan_backward(ctx, dS):
    M, S = ctx.saved_tensors
    D = chunk_scan_backward(M, dS.contiguous())
    kind = _product_type(M)
    return (D.to(kind) @ S.to(kind).transpose(-1, -2)).to(M.dtype), D


def _scan_setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output)


chunk_scan.register_autograd(_scan_backward, setup_context=_scan_setup)


def gated_delta_rule(q, k, v, g, beta):
    """Outputs [B, T, value heads, D].

    q, k [B, T, key heads, D] (normalised, q scaled), v [B, T, value heads, D], g (log decay) and beta [B, T, value heads].
    Value heads that share a key head are neighbours. Gates, inverse and states are float32.
    """
    B, T, nk, D = k.shape
    nv = v.shape[2]
    R, C, kind = nv // nk, CHUNK, v.dtype
    pad = -T % C
    if pad:
        q, k, v = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (q, k, v))
        g, beta = (F.pad(t, (0, 0, 0, pad)) for t in (g, beta))
    n = (T + pad) // C
    q, k = (t.view(B, n, C, nk, D).permute(0, 3, 1, 2, 4).unsqueeze(2) for t in (q, k))   # B nk 1 n C D
    v = v.view(B, n, C, nk, R, D).permute(0, 3, 4, 1, 2, 5)                               # B nk R n C D
    g, beta = (t.float().view(B, n, C, nk, R).permute(0, 3, 4, 1, 2) for t in (g, beta))  # B nk R n C
    G = g.cumsum(-1)
    lower = torch.ones(C, C, dtype=torch.bool, device=v.device).tril()
    decay = torch.where(lower, G[..., :, None] - G[..., None, :], float("-inf")).exp()
    kq = torch.cat([k, q], -2) @ k.transpose(-1, -2)                                      # B nk 1 n 2C C
    A = (beta[..., None] * kq[..., :C, :].float() * decay).tril(-1)
    Ti = unit_lower_inverse(A).to(kind)
    eG = G.exp()
    UW = Ti @ torch.cat([v * beta[..., None].to(kind), (k * (beta * eG)[..., None].to(kind))], -1)
    Kd = (k * (G[..., -1:] - G).exp()[..., None].to(kind))
    NM = Kd.transpose(-1, -2) @ UW                                                        # D 2D
    eye = torch.eye(D, device=v.device)
    M = eG[..., -1][..., None, None] * eye - NM[..., D:].float()
    S = chunk_scan(M.reshape(B * nv, n, D, D), NM[..., :D].float().reshape(B * nv, n, D, D)).view(B, nk, R, n, D, D).to(kind)
    U, W = UW[..., :D], UW[..., D:]
    WQ = torch.cat([W, (q * eG[..., None].to(kind))], -2) @ S                             # 2C D
    O = WQ[..., C:, :] + (kq[..., C:, :] * decay.to(kind)) @ (U - WQ[..., :C, :])
    return O.permute(0, 3, 4, 1, 2, 5).reshape(B, n * C, nv, D)[:, :T]
