"""A decoder layer's steps between matrix products on the GPU, one kernel each; formulas in decode_step.py."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._row_triton import FLOOR, LOG2E, tanh

_GATED_BLOCK = 1024
_SLOTS = 64  # slots that attention reads at a time; half as many if a head is wide


@triton.jit
@no_type_check
def _add_norm(
    states, added, weight, added_weight, total, normed, width, eps, offset,
    ADDED: tl.constexpr, ADDED_NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(states + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        more = tl.load(added + row * width + at, mask=inside, other=0.0).to(tl.float32)
        if ADDED_NORM:
            own = tl.load(added_weight + at, mask=inside, other=0.0).to(tl.float32)
            more = more * tl.rsqrt(tl.sum(more * more, axis=0) / width + eps) * (own + offset)
        x = (x + more).to(total.dtype.element_ty)
        tl.store(total + row * width + at, x, mask=inside)
        x = x.to(tl.float32)
    own = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps) * (own + offset)
    tl.store(normed + row * width + at, y.to(normed.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _rotate_and_store(
    query, key, value, cos, sin, places, keys, values, rotated, slots,
    HEADS: tl.constexpr, KV: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one row: of the query, then of the key, then of the value."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    place = tl.load(places + row)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    if head < HEADS:
        source = query + (row * HEADS + head) * (2 * HALF)
        target = rotated + (row * HEADS + head) * (2 * HALF)
    elif head < HEADS + KV:
        source = key + (row * KV + head - HEADS) * (2 * HALF)
        target = keys + ((row * KV + head - HEADS) * slots + place) * (2 * HALF)
    else:
        source = value + (row * KV + head - HEADS - KV) * (2 * HALF)
        target = values + ((row * KV + head - HEADS - KV) * slots + place) * (2 * HALF)
    first = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + at, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV:
        angle = place * (2 * HALF) + at
        cos_1 = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        sin_1 = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        cos_2 = tl.load(cos + angle + HALF, mask=inside, other=0.0).to(tl.float32)
        sin_2 = tl.load(sin + angle + HALF, mask=inside, other=0.0).to(tl.float32)
        turned = first * cos_1 - second * sin_1
        second = second * cos_2 + first * sin_2
        first = turned
    tl.store(target + at, first.to(target.dtype.element_ty), mask=inside)
    tl.store(target + HALF + at, second.to(target.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _attend(
    query, keys, values, places, found, slots, scale, cap, window,
    KV: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
    CAP: tl.constexpr, WINDOW: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All heads of one row that share their keys, over the slots that they see."""
    row = tl.program_id(0).to(tl.int64)
    kv = tl.program_id(1)
    place = tl.load(places + row).to(tl.int32)
    heads, dims = tl.arange(0, GROUP_PAD), tl.arange(0, DIM_PAD)
    shown = (heads < GROUP)[:, None] & (dims < DIM)[None, :]
    of_query = (row * KV * GROUP + kv * GROUP + heads)[:, None] * DIM + dims[None, :]
    q = tl.load(query + of_query, mask=shown, other=0.0)
    keys += (row * KV + kv) * slots * DIM
    values += (row * KV + kv) * slots * DIM
    first = 0
    if WINDOW:
        first = tl.maximum(place + 1 - window, 0)
    highest = tl.full([GROUP_PAD], FLOOR, tl.float32)
    mass = tl.zeros([GROUP_PAD], tl.float32)
    total = tl.zeros([GROUP_PAD, DIM_PAD], tl.float32)
    for start in range((first // SLOTS) * SLOTS, place + 1, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        seen = (slot >= first) & (slot <= place)
        k = tl.load(keys + slot[None, :] * DIM + dims[:, None], mask=seen[None, :] & (dims < DIM)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        if CAP:
            scores = tanh(scores * (1.0 / cap), False) * cap
        scores = tl.where(seen[None, :], scores * LOG2E, FLOOR)
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shares = tl.where(seen[None, :], tl.exp2(scores - higher[:, None]), 0.0)
        kept = tl.exp2(highest - higher)
        v = tl.load(values + slot[:, None] * DIM + dims[None, :], mask=seen[:, None] & (dims < DIM)[None, :], other=0.0)
        mass = mass * kept + tl.sum(shares, axis=1)
        total = total * kept[:, None] + tl.dot(shares.to(v.dtype), v, input_precision=PRECISION)
        highest = higher
    total = total / mass[:, None]
    tl.store(found + of_query, total.to(found.dtype.element_ty), mask=shown)


@triton.jit
@no_type_check
def _gated(gate, up, found, entries, SILU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < entries
    x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        opened = x / (1.0 + tl.exp2(-x * LOG2E))
    else:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        opened = 0.5 * x * (1.0 + tanh(tl.minimum(inner, 20.0), False))  # tanh(20) is 1 in float32
    tl.store(found + at, (opened * y).to(found.dtype.element_ty), mask=inside)


def add_norm(
    states: Tensor, added: Tensor | None, weight: Tensor, *, eps: float, offset: float, added_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """decode_step.add_norm in one kernel."""
    states = states.contiguous()
    rows, width = states.shape
    total = states if added is None else torch.empty_like(states)
    normed = torch.empty_like(states)
    block = triton.next_power_of_2(width)
    _add_norm[(rows,)](
        states, states if added is None else added.contiguous(), weight,
        weight if added_weight is None else added_weight, total, normed, width, eps, offset,
        ADDED=added is not None, ADDED_NORM=added_weight is not None, BLOCK=block, num_warps=8 if block > 2048 else 4,
    )  # fmt: skip
    return total, normed


def rotate_and_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    places: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """decode_step.rotate_and_store in one kernel."""
    rows, heads, dim = query.shape
    kv, rotated = key.shape[1], torch.empty(query.shape, dtype=query.dtype, device=query.device)
    _rotate_and_store[(rows, heads + 2 * kv)](
        query.contiguous(), key.contiguous(), value.contiguous(), cos, sin, places, keys, values, rotated,
        keys.shape[2], HEADS=heads, KV=kv, HALF=dim // 2, BLOCK=triton.next_power_of_2(dim // 2), num_warps=1,
    )  # fmt: skip
    return rotated


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Tensor,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """decode_step.attend in one kernel: a program per row and key head, which reads only what its row sees."""
    query = query.contiguous()
    rows, heads, dim = query.shape
    kv, found = keys.shape[1], torch.empty_like(query)
    _attend[(rows, kv)](
        query, keys, values, places, found, keys.shape[2], scale, softcap or 1.0, window or 0,
        KV=kv, GROUP=heads // kv, GROUP_PAD=max(16, triton.next_power_of_2(heads // kv)), DIM=dim,
        DIM_PAD=max(16, triton.next_power_of_2(dim)), CAP=softcap is not None, WINDOW=window is not None,
        SLOTS=_SLOTS if dim <= 128 else _SLOTS // 2, PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=4,
    )  # fmt: skip
    return found


def gated(gate: Tensor, up: Tensor, *, activation: str) -> Tensor:
    """decode_step.gated in one kernel."""
    gate, up = gate.contiguous(), up.contiguous()
    found = torch.empty_like(gate)
    _gated[(triton.cdiv(gate.numel(), _GATED_BLOCK),)](
        gate, up, found, gate.numel(), SILU=activation == "silu", BLOCK=_GATED_BLOCK
    )
    return found
