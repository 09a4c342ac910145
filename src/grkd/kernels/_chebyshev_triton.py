"""All pairs in O(candidates * nodes): the logistic function interpolated at Chebyshev nodes, sums over the order.

With scores sorted by the teacher, sum_{j worse than i} f(s_i - s_j) is, for f interpolated in its first argument,
sum_m l_m(s_i) F_m(i) with F_m(i) = sum_{j worse than i} f(x_m - s_j): one running sum a node.

The order is cut in blocks. For i in block b: pairs within the block are summed one by one, those with other blocks by
the sums over all blocks before and after, one number a node. A tie may cross a block's edge: then `strict` leaves the
tie out of the sum. Interpolation and sums over blocks are in float64: the interpolation's weights alternate in sign,
and float32 would lose to cancellation what the nodes gain.
"""

import functools
import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._tiles_triton import LN2, LOG2E, reciprocal

# Candidates of one block: pairs within it are summed one by one.
BLOCK = 256


@triton.jit
@no_type_check
def _sums(
    student, teacher, here, spans, unit, sums, candidates, blocks, rows, above_span, upto_span,
    NODES: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Six sums a node over one block: sigmoid(s_j - x), softplus(s_j - x), sigmoid(x - s_j) of all its candidates,
    the first two again of those below its last teacher score, the third of those above its first."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    if (high - low > above_span) & (high - low <= upto_span):
        existing = tl.load(here + row).to(tl.int32)
        node = tl.arange(0, NODES)
        half = tl.maximum(high * 0.5 - low * 0.5, 1e-3).to(tl.float64)
        points = (low * 0.5 + high * 0.5).to(tl.float64) + half * tl.load(unit + node)
        begin = block * BLOCK
        end = tl.minimum(begin + BLOCK, existing)
        first = tl.load(teacher + row * candidates + tl.minimum(begin, candidates - 1))
        last = tl.load(teacher + row * candidates + tl.maximum(end - 1, 0))
        worse = tl.zeros([NODES], tl.float32)
        loss = tl.zeros([NODES], tl.float32)
        better = tl.zeros([NODES], tl.float32)
        worse_strict = tl.zeros([NODES], tl.float32)
        loss_strict = tl.zeros([NODES], tl.float32)
        better_strict = tl.zeros([NODES], tl.float32)
        for start in range(begin, end, PART):
            at = start + tl.arange(0, PART)
            valid = at < end
            s = tl.load(student + row * candidates + at, mask=valid, other=0.0)
            t = tl.load(teacher + row * candidates + at, mask=valid, other=0.0)
            gap = (s.to(tl.float64)[:, None] - points[None, :]).to(tl.float32) * LOG2E
            e = tl.exp2(-tl.abs(gap))
            r = reciprocal(1.0 + e, FAST)
            one = valid.to(tl.float32)[:, None]
            up = tl.where(gap > 0.0, r, e * r) * one
            down = tl.where(gap > 0.0, e * r, r) * one
            plus = (tl.maximum(gap, 0.0) + tl.log2(1.0 + e)) * LN2 * one
            below = (t < last).to(tl.float32)[:, None]
            beyond = (t > first).to(tl.float32)[:, None]
            worse += tl.sum(up, axis=0)
            loss += tl.sum(plus, axis=0)
            better += tl.sum(down, axis=0)
            worse_strict += tl.sum(up * below, axis=0)
            loss_strict += tl.sum(plus * below, axis=0)
            better_strict += tl.sum(down * beyond, axis=0)
        plane = rows * blocks * NODES
        to = sums + (row * blocks + block) * NODES + node
        tl.store(to, worse)
        tl.store(to + plane, loss)
        tl.store(to + 2 * plane, better)
        tl.store(to + 3 * plane, worse_strict)
        tl.store(to + 4 * plane, loss_strict)
        tl.store(to + 5 * plane, better_strict)


@triton.jit
@no_type_check
def _interpolate(
    student, teacher, order, here, spans, unit, before, after, sums, tie_before, tie_after, gradient, losses,
    candidates, blocks, rows, loss_stride, above_span, upto_span,
    NODES: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Gradient and loss of one block: interpolated sums over the other blocks, pairs within it one by one.

    before [2, rows, blocks, NODES]: sums over the blocks before; after [rows, blocks, NODES]: over those after;
    tie_before, tie_after [rows, blocks]: the block in which the tie that crosses the edge begins or ends;
    unit [2, NODES]: nodes on [-1, 1] and their weights. One candidate a lane: nothing crosses threads in the loops.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    existing = tl.load(here + row).to(tl.int32)
    begin = block * BLOCK
    if (high - low > above_span) & (high - low <= upto_span) & (begin < existing):
        end = tl.minimum(begin + BLOCK, existing)
        student += row * candidates
        teacher += row * candidates
        at = begin + tl.arange(0, BLOCK)
        valid = at < end
        s = tl.load(student + at, mask=valid, other=0.0)
        t = tl.load(teacher + at, mask=valid, other=float("nan"))
        low_tie = (begin > 0) & (t == tl.load(teacher + tl.maximum(begin - 1, 0)))
        high_tie = (end < existing) & (t == tl.load(teacher + tl.minimum(end, candidates - 1)))
        plane = rows * blocks * NODES
        own = (row * blocks + block) * NODES
        left = (row * blocks + tl.load(tie_before + row * blocks + block)) * NODES
        right = (row * blocks + tl.load(tie_after + row * blocks + block)) * NODES
        s64 = s.to(tl.float64)
        middle = (low * 0.5 + high * 0.5).to(tl.float64)
        half = tl.maximum(high * 0.5 - low * 0.5, 1e-3).to(tl.float64)
        scale = tl.zeros([BLOCK], tl.float64)
        below = tl.zeros([BLOCK], tl.float64)
        above = tl.zeros([BLOCK], tl.float64)
        value = tl.zeros([BLOCK], tl.float64)
        for node in range(NODES):
            away = s64 - (middle + half * tl.load(unit + node))
            basis = tl.load(unit + NODES + node) / tl.where(tl.abs(away) < 1e-13, 1e-13, away)
            worse_strict = tl.load(before + left + node) + tl.load(sums + 3 * plane + left + node).to(tl.float64)
            loss_strict = tl.load(before + plane + left + node) + tl.load(sums + 4 * plane + left + node).to(tl.float64)
            better_strict = tl.load(after + right + node) + tl.load(sums + 5 * plane + right + node).to(tl.float64)
            scale += basis
            below += basis * tl.where(low_tie, worse_strict, tl.load(before + own + node))
            value += basis * tl.where(low_tie, loss_strict, tl.load(before + plane + own + node))
            above += basis * tl.where(high_tie, better_strict, tl.load(after + own + node))
        inside = tl.zeros([BLOCK], tl.float32)
        within = tl.zeros([BLOCK], tl.float32)
        for other in range(begin, end):
            sj, tj = tl.load(student + other), tl.load(teacher + other)
            gap = (sj - s) * LOG2E
            e = tl.exp2(-tl.abs(gap))
            r = reciprocal(1.0 + e, FAST)
            inside += tl.where(tj < t, -tl.where(gap > 0.0, r, e * r), 0.0)
            inside += tl.where(tj > t, tl.where(gap > 0.0, e * r, r), 0.0)
            within += tl.where(tj < t, tl.maximum(gap, 0.0) + tl.log2(1.0 + e), 0.0)
        place = tl.load(order + row * candidates + at, mask=valid, other=0)
        slope = (above - below) / scale + inside.to(tl.float64)
        tl.store(gradient + row * candidates + place, slope.to(tl.float32), mask=valid)
        total = tl.where(valid, value / scale + (within * LN2).to(tl.float64), 0.0)
        tl.store(losses + row * loss_stride + block, tl.sum(total, axis=0).to(tl.float32))


@triton.jit
@no_type_check
def _scan(spans, sums, outside, blocks, rows, above_span, upto_span, NODES: tl.constexpr):
    """Sums over all blocks before (sigmoid, softplus) and after (sigmoid of the opposite) each block of one row."""
    row = tl.program_id(0).to(tl.int64)
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    if (high - low > above_span) & (high - low <= upto_span):
        plane = rows * blocks * NODES
        node = tl.arange(0, NODES)
        worse = tl.zeros([NODES], tl.float64)
        loss = tl.zeros([NODES], tl.float64)
        better = tl.zeros([NODES], tl.float64)
        for block in range(blocks):
            at = (row * blocks + block) * NODES + node
            tl.store(outside + at, worse)
            tl.store(outside + plane + at, loss)
            worse += tl.load(sums + at).to(tl.float64)
            loss += tl.load(sums + plane + at).to(tl.float64)
            other = (row * blocks + blocks - 1 - block) * NODES + node
            tl.store(outside + 2 * plane + other, better)
            better += tl.load(sums + 2 * plane + other).to(tl.float64)


def crossing_ties(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """For each block of sorted rows: the block in which the tie across its lower edge begins, across its upper ends."""
    candidates = ordered.shape[1]
    edges = torch.arange(0, candidates, BLOCK, device=ordered.device)
    previous = ordered[:, (edges - 1).clamp_min(0)]
    following = ordered[:, (edges + BLOCK).clamp_max(candidates - 1)]
    before = torch.searchsorted(ordered, previous, out_int32=True) // BLOCK
    return before, (torch.searchsorted(ordered, following, right=True, out_int32=True) - 1) // BLOCK


@functools.cache
def unit_nodes(nodes: int, device: torch.device) -> Tensor:
    """Chebyshev nodes on [-1, 1] and their barycentric weights, [2, nodes] in float64."""
    angle = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (math.pi / nodes)
    return torch.stack([angle.cos(), angle.sin() * (1 - 2 * (torch.arange(nodes) % 2))]).to(device)


def sorted_rows(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of float32 scores in ascending order and where it stood (int32): one radix sort for all rows.

    The key is the row's number above the score's bits, made to order as integers do.
    """
    rows, candidates = scores.shape
    bits = scores.contiguous().view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() + (1 << 31)
    key = ordered + (torch.arange(rows, device=scores.device) << 32).unsqueeze(-1)
    del ordered
    keys, order = key.view(-1).sort()
    del key
    start = (torch.arange(rows, device=scores.device) * candidates).unsqueeze(-1)
    order = (order.view(rows, candidates) - start).int()
    back = ((keys.view(rows, candidates) & 0xFFFFFFFF) - (1 << 31)).int()
    return torch.where(back < 0, back ^ 0x7FFFFFFF, back).view(torch.float32), order


def interpolate(
    student: Tensor,
    ordered: Tensor,
    order: Tensor,
    here: Tensor,
    spans: Tensor,
    tie_before: Tensor,
    tie_after: Tensor,
    gradient: Tensor,
    losses: Tensor,
    *,
    nodes: int,
    above: float,
    upto: float,
    fast: bool,
) -> None:
    """Fill gradient and losses [rows, blocks or more] of the rows whose range lies in (above, upto]."""
    rows, candidates = student.shape
    part = max(16, 2048 // nodes)
    blocks = triton.cdiv(candidates, BLOCK)
    unit = unit_nodes(nodes, student.device)
    sums = torch.empty(6, rows, blocks, nodes, dtype=torch.float32, device=student.device)
    outside = torch.empty(3, rows, blocks, nodes, dtype=torch.float64, device=student.device)
    common = {"NODES": nodes, "num_warps": 4}
    _sums[(rows, blocks)](
        student, ordered, here, spans, unit, sums, candidates, blocks, rows, above, upto,
        BLOCK=BLOCK, PART=part, FAST=fast, **common,
    )  # fmt: skip
    _scan[(rows,)](spans, sums, outside, blocks, rows, above, upto, **common)
    _interpolate[(rows, blocks)](
        student, ordered, order, here, spans, unit, outside, outside[2], sums, tie_before, tie_after, gradient, losses,
        candidates, blocks, rows, losses.stride(0), above, upto, BLOCK=BLOCK, FAST=fast, **common,
    )  # fmt: skip
