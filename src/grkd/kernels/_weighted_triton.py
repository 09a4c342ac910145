"""Weighted pairs on the GPU: one program a block of a row's candidates, against all of the row; nothing is K x K."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._options import WEIGHTED_PAIR_KERNELS
from grkd.losses import PairForm

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
_ROWS, _COLUMNS = 32, 64


@triton.jit
@no_type_check
def _weighted_kernel(
    student, teacher, values, gradient, sums, weights, candidates, blocks,
    TARGET: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """d total / d s of the block's candidates; loss and weight of the pairs in which they are the better ones.

    A missing candidate's teacher score is NaN: it is neither above nor below any other.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    student += row * candidates
    teacher += row * candidates
    values += row * candidates
    at = block * ROWS + tl.arange(0, ROWS)
    here = at < candidates
    si = tl.load(student + at, mask=here, other=0.0)[:, None]
    ti = tl.load(teacher + at, mask=here, other=float("nan"))[:, None]
    vi = tl.load(values + at, mask=here, other=0.0)[:, None]
    slope = tl.zeros([ROWS, COLUMNS], tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    weighed = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, candidates, COLUMNS):
        other = start + tl.arange(0, COLUMNS)
        there = other < candidates
        sj = tl.load(student + other, mask=there, other=0.0)[None, :]
        tj = tl.load(teacher + other, mask=there, other=float("nan"))[None, :]
        vj = tl.load(values + other, mask=there, other=0.0)[None, :]
        better, worse = ti > tj, ti < tj
        w = tl.where(better | worse, tl.abs(vi - vj), 0.0)
        if TARGET == "margin":
            gap = (si - sj) - tl.where(better | worse, ti - tj, 0.0)
            loss, push = gap * gap * 0.125, gap * 0.25
        else:
            # x: the student's margin of the better one; sigmoid(-x) and log(1 + exp(-x)) from one exponential.
            x = tl.where(better, si - sj, sj - si)
            e = tl.exp2(-tl.abs(x) * LOG2E)
            against = tl.where(x >= 0, e, 1.0) / (1.0 + e)
            loss = tl.maximum(-x, 0.0) + tl.log2(1.0 + e) * LN2
            if TARGET == "soft":
                d = tl.exp2(-tl.abs(tl.where(better | worse, ti - tj, 0.0)) * LOG2E)
                doubt = d / (1.0 + d)
                loss += doubt * x
                against -= doubt
            push = tl.where(better, -against, against)
        slope += w * push
        total += tl.where(better, w * loss, 0.0)
        weighed += tl.where(better, w, 0.0)
    tl.store(gradient + row * candidates + at, tl.sum(slope, axis=1), mask=here)
    tl.store(sums + row * blocks + block, tl.sum(tl.sum(total, axis=1), axis=0))
    tl.store(weights + row * blocks + block, tl.sum(tl.sum(weighed, axis=1), axis=0))


def run(
    student: Tensor, teacher: Tensor, values: Tensor, exists: Tensor | None, form: PairForm
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and weights summed over each row's pairs, and the gradient by the student's scores; float32 in and out."""
    if form.kernel not in WEIGHTED_PAIR_KERNELS:
        raise ValueError(f"the kernel knows the pair forms {', '.join(WEIGHTED_PAIR_KERNELS)}, not {form.name!r}")
    rows, candidates = student.shape
    if exists is not None:
        teacher = teacher.masked_fill(~exists, torch.nan)
    student, teacher, values = (x.float().contiguous() for x in (student, teacher, values))
    gradient = torch.empty_like(student)
    blocks = max(1, triton.cdiv(candidates, _ROWS))
    sums, weights = torch.zeros(2, rows, blocks, device=student.device).unbind()
    if rows and candidates:
        _weighted_kernel[(rows * blocks,)](
            student, teacher, values, gradient, sums, weights, candidates, blocks,
            TARGET=form.kernel, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=4,
        )  # fmt: skip
    return sums.sum(-1), weights.sum(-1), gradient
