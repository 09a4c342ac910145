"""Log-probabilities of chosen tokens on the GPU: one pass over a chunk's logits forward, one backward."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._row_triton import FLOOR, LN2, LOG2E, _log_sum, _merge, read

_LANES, _WARPS = 256, 8  # of the pass over a row
_BLOCK = 4096  # entries that a program of the gradient writes


@triton.jit
@no_type_check
def _statistics(
    logits, row_stride, labels, bias, chosen, log_sums, vocabulary, cap, inverse_temperature,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One row: its label's score and its log-sum-exp, in nats; both 0 for a label below 0, whose row is not read."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    label = tl.load(labels + row)
    within = tl.arange(0, LANES)[:, None] * 8 + tl.arange(0, 8)[None, :]
    scale = LOG2E * inverse_temperature
    top = tl.full([LANES], FLOOR, tl.float32)
    mass = tl.zeros([LANES], tl.float32)
    steps = tl.where(label < 0, 0, tl.cdiv(vocabulary, LANES * 8))
    for step in range(steps):
        at = step * (LANES * 8) + within
        inside = at < vocabulary
        x, _ = read(logits, bias, at, inside, cap, HAS_BIAS, CAP, False)
        top, mass = _merge(top, mass, tl.where(inside, x * scale, FLOOR))
    if label < 0:
        tl.store(chosen + row, 0.0)
        tl.store(log_sums + row, 0.0)
    else:
        own, _ = read(logits, bias, label, label >= 0, cap, HAS_BIAS, CAP, False)
        tl.store(chosen + row, own * inverse_temperature)
        tl.store(log_sums + row, _log_sum(top, mass) * LN2)


@triton.jit
@no_type_check
def _slopes(
    logits, row_stride, slopes, slope_stride, labels, bias, log_sums, rows, vocabulary, cap, inverse_temperature,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rows * (one-hot - softmax) / temperature, times the cap's slope: by the raw logits, one block of a row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocabulary
    label = tl.load(labels + row)
    if label < 0:
        slope = tl.zeros([BLOCK], tl.float32)
    else:
        factor = tl.load(rows + row) * inverse_temperature
        log_sum = tl.load(log_sums + row) * LOG2E
        x, curve = read(logits + row * row_stride, bias, at, inside, cap, HAS_BIAS, CAP, False)
        share = tl.exp2(x * (LOG2E * inverse_temperature) - log_sum)
        slope = (tl.where(at == label, 1.0, 0.0) - share) * factor * (1.0 - curve * curve)
    tl.store(slopes + row * slope_stride + at, slope.to(slopes.dtype.element_ty), mask=inside)


def statistics(
    logits: Tensor, labels: Tensor, *, bias: Tensor | None, softcap: float | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """(score of the label, log-sum-exp) of each row of float32 logits [rows, vocabulary], in nats."""
    chosen, log_sums = torch.empty(2, len(logits), dtype=torch.float32, device=logits.device)
    if len(logits):
        _statistics[(len(logits),)](
            logits, logits.stride(0), labels, logits if bias is None else bias, chosen, log_sums, logits.shape[1],
            softcap or 1.0, 1.0 / temperature,
            HAS_BIAS=bias is not None, CAP=softcap is not None, LANES=_LANES, num_warps=_WARPS,
        )  # fmt: skip
    return chosen, log_sums


def slopes(
    logits: Tensor,
    labels: Tensor,
    log_sums: Tensor,
    rows: Tensor,
    *,
    bias: Tensor | None,
    softcap: float | None,
    temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient of sum_r rows_r log p_r by the float32 logits, rounded to `dtype` once; float32 takes their place."""
    found = logits if dtype == logits.dtype else torch.empty_like(logits, dtype=dtype)
    if len(logits):
        _slopes[(len(logits), triton.cdiv(logits.shape[1], _BLOCK))](
            logits, logits.stride(0), found, found.stride(0), labels, logits if bias is None else bias, log_sums, rows,
            logits.shape[1], softcap or 1.0, 1.0 / temperature,
            HAS_BIAS=bias is not None, CAP=softcap is not None, BLOCK=_BLOCK,
        )  # fmt: skip
    return found
