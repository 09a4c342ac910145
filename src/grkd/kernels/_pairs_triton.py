"""The pairs-only head on the GPU: only the group's rows of the weight are read, only theirs get a gradient."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._inputs import HeadInputs
from grkd.kernels._options import HeadOptions
from grkd.kernels._row_triton import _dots, _tanh, pair_term


@triton.jit
@no_type_check
def _pairs(
    student_hidden, student_weight, student_stride, student_width,
    teacher_hidden, teacher_weight, teacher_stride, teacher_width, teacher_scores,
    student_bias, teacher_bias, student_cap, teacher_cap, weights, inverse_rows, indices, losses, slopes,
    tau, pair_weight,
    TEACHER_KNOWN: tl.constexpr, HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, SOFT: tl.constexpr, PER_PAIR: tl.constexpr,
    SCALED: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row: its group's scores under both models in float32, the pair loss and its slope by the raw scores."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, GROUP_PAD)
    weight = tl.load(weights + row)
    if weight == 0.0:
        tl.store(slopes + row * GROUP + slot, tl.zeros([GROUP_PAD], tl.float32), mask=slot < GROUP)
        tl.store(losses + row * 2, 0.0)
    else:
        chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1).to(tl.int32)
        exists = chosen >= 0
        entry = tl.maximum(chosen, 0)
        ss = _dots(
            student_hidden + row * student_width,
            student_weight,
            student_stride,
            chosen,
            student_width,
            GROUP_PAD,
            WIDTH,
        )
        if HAS_STUDENT_BIAS:
            ss += tl.load(student_bias + entry, mask=exists, other=0.0).to(tl.float32)
        bend = tl.full([GROUP_PAD], 1.0, tl.float32)
        if STUDENT_CAP:
            curve = _tanh(ss / student_cap, False)
            bend = 1.0 - curve * curve
            ss = curve * student_cap
        if TEACHER_KNOWN:
            st = tl.load(teacher_scores + row * GROUP + slot, mask=exists, other=0.0).to(tl.float32)
        else:
            st = _dots(
                teacher_hidden + row * teacher_width, teacher_weight, teacher_stride, chosen, teacher_width,
                GROUP_PAD, WIDTH,
            )  # fmt: skip
            if HAS_TEACHER_BIAS:
                st += tl.load(teacher_bias + entry, mask=exists, other=0.0).to(tl.float32)
            if TEACHER_CAP:
                st = _tanh(st / teacher_cap, False) * teacher_cap
        loss, slope = pair_term(ss, st, exists, tau, SOFT, PER_PAIR)
        factor = weight * pair_weight
        tl.store(losses + row * 2, loss * factor)
        if SCALED:
            factor *= tl.load(inverse_rows).to(tl.float32)
        tl.store(slopes + row * GROUP + slot, slope * bend * factor, mask=slot < GROUP)
    tl.store(losses + row * 2 + 1, 0.0)


@triton.jit
@no_type_check
def _to_hidden(
    slopes, indices, weight, stride, gradient, width,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    slot = tl.arange(0, GROUP_PAD)
    chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1)
    slope = tl.load(slopes + row * GROUP + slot, mask=(slot < GROUP) & (chosen >= 0), other=0.0)
    inside = (chosen >= 0)[:, None] & (column < width)[None, :]
    at = weight + tl.maximum(chosen, 0)[:, None] * stride + column[None, :]
    entries = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(gradient + row * width + column, tl.sum(entries * slope[:, None], axis=0), mask=column < width)


@triton.jit
@no_type_check
def _to_weight(
    slopes, order, starts, hidden, gradient, width, GROUP: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr
):
    """One row of the weight's gradient: the sum over the places where the sorted groups name it. No atomics."""
    entry = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first, last = tl.load(starts + entry), tl.load(starts + entry + 1)
    total = tl.zeros([WIDTH], tl.float32)
    for start in range(first, last, ENTRIES):
        places = start + tl.arange(0, ENTRIES)
        here = places < last
        flat = tl.load(order + places, mask=here, other=0)
        slope = tl.load(slopes + flat, mask=here, other=0.0)
        at = hidden + (flat // GROUP)[:, None] * width + column[None, :]
        states = tl.load(at, mask=here[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
        total += tl.sum(states * slope[:, None], axis=0)
    tl.store(gradient + entry * width + column, total, mask=column < width)


def _padded(group: int) -> int:
    return int(max(4, triton.next_power_of_2(group)))


def scores_and_slopes(
    inputs: HeadInputs,
    options: HeadOptions,
    teacher_scores: Tensor | None,
    losses: Tensor,
    slopes: Tensor,
    *,
    scaled: bool,
) -> None:
    """Fill losses [rows, 2] and slopes [rows, group] for the given group."""
    assert inputs.indices is not None
    fallback = inputs.weights
    group = slopes.shape[1]
    _pairs[(inputs.rows,)](
        inputs.student_hidden, inputs.student_weight, inputs.student_weight.stride(0), inputs.student_hidden.shape[1],
        inputs.teacher_hidden, inputs.teacher_weight, inputs.teacher_weight.stride(0), inputs.teacher_hidden.shape[1],
        fallback if teacher_scores is None else teacher_scores,
        fallback if inputs.student_bias is None else inputs.student_bias,
        fallback if inputs.teacher_bias is None else inputs.teacher_bias,
        options.student_softcap or 1.0, options.teacher_softcap or 1.0,
        inputs.weights, inputs.inverse_rows, inputs.indices, losses, slopes,
        options.pairs.tau, options.pair_weight,
        TEACHER_KNOWN=teacher_scores is not None,
        HAS_STUDENT_BIAS=inputs.student_bias is not None,
        HAS_TEACHER_BIAS=inputs.teacher_bias is not None,
        STUDENT_CAP=options.student_softcap is not None,
        TEACHER_CAP=options.teacher_softcap is not None,
        SOFT=options.pairs.pair_target == "soft",
        PER_PAIR=options.pairs.normalize == "pairs",
        SCALED=scaled,
        GROUP=group,
        GROUP_PAD=_padded(group),
        WIDTH=256,
        num_warps=4,
    )  # fmt: skip


def hidden_gradient(inputs: HeadInputs, indices: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the student's hidden states: slopes times the group's rows of the weight."""
    gradient = torch.empty_like(inputs.student_hidden)
    rows, width = gradient.shape
    group, block = slopes.shape[1], 256
    _to_hidden[(rows, triton.cdiv(width, block))](
        slopes, indices, inputs.student_weight, inputs.student_weight.stride(0), gradient, width,
        GROUP=group, GROUP_PAD=_padded(group), WIDTH=block, num_warps=4,
    )  # fmt: skip
    return gradient


def weight_gradient(inputs: HeadInputs, indices: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the weight, summed in float32 and rounded once; rows that no group names are 0."""
    vocabulary, width = inputs.student_weight.shape
    gradient = torch.empty(vocabulary, width, dtype=dtype, device=slopes.device)
    keys, order = indices.reshape(-1).int().sort()
    starts = torch.searchsorted(
        keys, torch.arange(vocabulary + 1, dtype=torch.int32, device=slopes.device), right=False
    )
    block = min(1024, triton.next_power_of_2(width))
    _to_weight[(vocabulary, triton.cdiv(width, block))](
        slopes, order, starts, inputs.student_hidden, gradient, width,
        GROUP=slopes.shape[1], ENTRIES=8, WIDTH=block, num_warps=4,
    )  # fmt: skip
    return gradient


def bias_gradient(inputs: HeadInputs, indices: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the student's bias in float32."""
    total = torch.zeros(inputs.vocabulary, dtype=torch.float32, device=slopes.device)
    kept = torch.where(indices >= 0, slopes, 0.0)
    return total.index_add_(0, indices.clamp_min(0).reshape(-1), kept.reshape(-1))
