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

    @triton.jit
    def _states_kernel(NM, DECAY, S, chunks, D: tl.constexpr):
        o = tl.arange(0, D)
        square, left = o[:, None] * D + o[None, :], o[:, None] * (2 * D) + o[None, :]
        s = tl.zeros((D, D), tl.float32)
        for n in range(chunks):
            chunk = tl.program_id(0).to(tl.int64) * chunks + n
            tl.store(S + chunk * (D * D) + square, s.to(S.dtype.element_ty))
            u = tl.load(NM + chunk * (2 * D * D) + left).to(tl.float32)
            w = tl.load(NM + chunk * (2 * D * D) + D + left)
            s = s * tl.load(DECAY + chunk) + u - tl.dot(w, s.to(w.dtype))

    @triton.jit
    def _states_backward_kernel(NM, DECAY, S, DS, DNM, D_DECAY, chunks, D: tl.constexpr):
        o = tl.arange(0, D)
        square, left = o[:, None] * D + o[None, :], o[:, None] * (2 * D) + o[None, :]
        d = tl.zeros((D, D), tl.float32)
        for k in range(chunks):
            chunk = tl.program_id(0).to(tl.int64) * chunks + (chunks - 1 - k)
            s = tl.load(S + chunk * (D * D) + square)
            w = tl.load(NM + chunk * (2 * D * D) + D + left)
            d16 = d.to(s.dtype)
            tl.store(DNM + chunk * (2 * D * D) + left, d16)
            tl.store(DNM + chunk * (2 * D * D) + D + left, (-tl.dot(d16, tl.trans(s))).to(s.dtype))
            tl.store(D_DECAY + chunk, tl.sum(tl.sum(d * s.to(tl.float32), 1), 0))
            ds = tl.load(DS + chunk * (D * D) + square).to(tl.float32)
            d = ds + d * tl.load(DECAY + chunk) - tl.dot(tl.trans(w), d16)


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


def _in_triton(t):
    """The kernels' products are bf16, so float32 (validation) takes the plain loops."""
    return t.is_cuda and triton is not None and t.dtype == torch.bfloat16


@torch.library.custom_op("freelunch::chunk_states", mutates_args=())
def chunk_states(NM: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """The states at chunk starts, [heads, chunks, D, D]: S[0] = 0, S[n + 1] = decay[n] S[n] + NM[n, :, :D] - NM[n, :, D:] S[n].

    NM [heads, chunks, D, 2 D], decay [heads, chunks] in float32. The running state is float32 throughout.
    """
    NM, decay = NM.contiguous(), decay.contiguous()
    heads, chunks, D, _ = NM.shape
    S = torch.empty(heads, chunks, D, D, dtype=NM.dtype, device=NM.device)
    if _in_triton(NM):
        _states_kernel[(heads,)](NM, decay, S, chunks, D, num_warps=4)
        return S
    s = torch.zeros(heads, D, D, dtype=torch.float32, device=NM.device)
    for n in range(chunks):
        S[:, n] = s
        s = decay[:, n, None, None] * s + NM[:, n, :, :D] - NM[:, n, :, D:].float() @ s
    return S


@chunk_states.register_fake
def _(NM, decay):
    heads, chunks, D, _ = NM.shape
    return NM.new_empty(heads, chunks, D, D)


@torch.library.custom_op("freelunch::chunk_states_backward", mutates_args=())
def chunk_states_backward(NM: torch.Tensor, decay: torch.Tensor, S: torch.Tensor,
                          dS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of NM and decay. What reaches S[n + 1] reaches NM[n, :, :D], and all else through the products with S[n]."""
    NM, decay, S, dS = (t.contiguous() for t in (NM, decay, S, dS))
    heads, chunks, D, _ = NM.shape
    dNM, d_decay = torch.empty_like(NM), torch.empty_like(decay)
    if _in_triton(NM):
        _states_backward_kernel[(heads,)](NM, decay, S, dS, dNM, d_decay, chunks, D, num_warps=4)
        return dNM, d_decay
    d = torch.zeros(heads, D, D, dtype=torch.float32, device=NM.device)
    for n in range(chunks - 1, -1, -1):
        s = S[:, n].float()
        dNM[:, n, :, :D] = d
        dNM[:, n, :, D:] = -d @ s.transpose(1, 2)
        d_decay[:, n] = (d * s).sum((1, 2))
        d = dS[:, n] + decay[:, n, None, None] * d - NM[:, n, :, D:].float().transpose(1, 2) @ d
    return dNM, d_decay


@chunk_states_backward.register_fake
def _(NM, decay, S, dS):
    return torch.empty_like(NM, memory_format=torch.contiguous_format), torch.empty_like(decay, memory_format=torch.contiguous_format)


def _states_gradients(ctx, dS):
    return chunk_states_backward(*ctx.saved_tensors, dS)


def _states_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output)


chunk_states.register_autograd(_states_gradients, setup_context=_states_setup)


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
    S = chunk_states(NM.reshape(B * nv, n, D, 2 * D), eG[..., -1].reshape(B * nv, n)).view(B, nk, R, n, D, D)
    U, W = UW[..., :D], UW[..., D:]
    WQ = torch.cat([W, (q * eG[..., None].to(kind))], -2) @ S                             # 2C D
    O = WQ[..., C:, :] + (kq[..., C:, :] * decay.to(kind)) @ (U - WQ[..., :C, :])
    return O.permute(0, 3, 4, 1, 2, 5).reshape(B, n * C, nv, D)[:, :T]
