"""The pairs-only head on the GPU: only the group's rows of the weight are read, only theirs get a gradient."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._inputs import HeadInputs

# Columns and places that a program of the weight's gradient reads at a time, and its warps.
_WIDTH, _ENTRIES, _WARPS = 4096, 1, 8


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


def weight_gradient(inputs: HeadInputs, indices: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the weight, summed in float32 and rounded once; rows that no group names are 0."""
    vocabulary, width = inputs.student_weight.shape
    gradient = torch.empty(vocabulary, width, dtype=dtype, device=slopes.device)
    keys, order = indices.reshape(-1).int().sort()
    starts = torch.searchsorted(
        keys, torch.arange(vocabulary + 1, dtype=torch.int32, device=slopes.device), right=False
    )
    block = min(_WIDTH, triton.next_power_of_2(width))
    _to_weight[(vocabulary, triton.cdiv(width, block))](
        slopes, order, starts, inputs.student_hidden, gradient, width,
        GROUP=slopes.shape[1], ENTRIES=_ENTRIES, WIDTH=block, num_warps=_WARPS,
    )  # fmt: skip
    return gradient


def bias_gradient(inputs: HeadInputs, indices: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of the student's bias in float32."""
    total = torch.zeros(inputs.vocabulary, dtype=torch.float32, device=slopes.device)
    kept = torch.where(indices >= 0, slopes, 0.0)
    return total.index_add_(0, indices.clamp_min(0).reshape(-1), kept.reshape(-1))
