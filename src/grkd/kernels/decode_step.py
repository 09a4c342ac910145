"""What a decoder layer does between its matrix products when one token per row is decoded over a static cache.

Each function has a Triton form (one kernel) and a torch form; neither synchronises with the host, so a CUDA graph can
hold them. Everything is computed in float32 (float64) and rounded once.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, silu

from grkd.groups import wide
from grkd.kernels._available import use_triton
from grkd.kernels._options import Implementation
from grkd.kernels._products import wide_product

Activation = Literal["silu", "gelu_tanh"]


def add_norm(
    states: Float[Tensor, "rows width"],
    added: Float[Tensor, "rows width"] | None,
    weight: Float[Tensor, " width"],
    *,
    eps: float,
    offset: float = 0.0,
    added_weight: Float[Tensor, " width"] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """(s, RMSNorm(s)) with s = states + added, or states + RMSNorm(added) by added_weight.

    RMSNorm(x) = x / sqrt(mean(x^2) + eps) * (offset + weight); added None: s = states.
    """
    if use_triton(states, implementation):
        from grkd.kernels import _decode_triton

        return _decode_triton.add_norm(states, added, weight, eps=eps, offset=offset, added_weight=added_weight)
    if added is not None:
        if added_weight is not None:
            added = _normed(added, added_weight, eps, offset).to(states.dtype)
        states = states + added
    return states, _normed(states, weight, eps, offset).to(states.dtype)


def rotate_and_store(
    query: Float[Tensor, "rows heads dim"],
    key: Float[Tensor, "rows kv dim"],
    value: Float[Tensor, "rows kv dim"],
    cos: Float[Tensor, "slots dim"],
    sin: Float[Tensor, "slots dim"],
    places: Int[Tensor, " rows"],
    keys: Float[Tensor, "rows kv slots dim"],
    values: Float[Tensor, "rows kv slots dim"],
    *,
    implementation: Implementation = "auto",
) -> Float[Tensor, "rows heads dim"]:
    """The rotated query; the rotated key and the value go to slot places[r] of each row's cache.

    rotated(x) = x * cos + (-x_2, x_1) * sin at the row's place, x_1 and x_2 the halves of x.
    """
    if use_triton(query, implementation):
        from grkd.kernels import _decode_triton

        return _decode_triton.rotate_and_store(query, key, value, cos, sin, places, keys, values)
    rows = torch.arange(len(query), device=query.device)
    cos, sin = cos[places][:, None], sin[places][:, None]
    keys[rows, :, places] = _rotated(key, cos, sin)
    values[rows, :, places] = value
    return _rotated(query, cos, sin)


def attend(
    query: Float[Tensor, "rows heads dim"],
    keys: Float[Tensor, "rows kv slots dim"],
    values: Float[Tensor, "rows kv slots dim"],
    places: Int[Tensor, " rows"],
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, "rows heads dim"]:
    """softmax(cap(scale * q . k_j)) v_j over slots j <= places[r], and j > places[r] - window if there is one.

    heads is a multiple of kv: head h reads the keys of h // (heads / kv). Slots that are not seen may hold anything.
    cap(x) = softcap * tanh(x / softcap). The Triton form reads only the slots that are seen.
    """
    if use_triton(query, implementation):
        from grkd.kernels import _decode_triton

        return _decode_triton.attend(query, keys, values, places, scale=scale, softcap=softcap, window=window)
    rows, kv, slots, dim = keys.shape
    scores = wide(query).view(rows, kv, -1, dim) @ wide(keys).mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    slot = torch.arange(slots, device=query.device)
    seen = slot <= places[:, None]
    if window is not None:
        seen &= slot > places[:, None] - window
    shares = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    known = torch.where(seen[:, None, :, None], values, 0.0)  # 0 * NaN would not be 0
    return (shares @ wide(known)).reshape(query.shape).to(query.dtype)


def gated(
    gate: Float[Tensor, "rows width"],
    up: Float[Tensor, "rows width"],
    *,
    activation: Activation,
    implementation: Implementation = "auto",
) -> Float[Tensor, "rows width"]:
    """activation(gate) * up; gelu_tanh is GELU by its tanh form."""
    if use_triton(gate, implementation):
        from grkd.kernels import _decode_triton

        return _decode_triton.gated(gate, up, activation=activation)
    opened = silu(wide(gate)) if activation == "silu" else gelu(wide(gate), approximate="tanh")
    return (opened * up).to(gate.dtype)


def logits_of(
    hidden: Float[Tensor, "rows width"], weight: Float[Tensor, "vocabulary width"]
) -> Float[Tensor, "rows vocabulary"]:
    """hidden W^T, in float32 for 16-bit factors: near ties are not decided by the rounding of logits."""
    return wide_product(hidden, weight.mT)


def _normed(states: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    states = wide(states)
    scaled = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps)
    return scaled * (offset + weight.to(states.dtype))


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = wide(states).chunk(2, -1)
    return (wide(states) * cos + torch.cat([-second, first], -1) * sin).to(states.dtype)
