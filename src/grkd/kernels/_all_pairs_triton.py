"""All pairs on the GPU: tiles of pairs in registers, or Chebyshev sums, chosen a row on the device by its range."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._chebyshev import range_for
from grkd.kernels._options import PairOptions

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# A row's scores within this of its middle (in log 2) may each be exponentiated once: a pair is then a product.
_SAFE = 60.0
# Candidates from which the Chebyshev sums pay for the sort that they need.
_INTERPOLATE_FROM = 1_536
# Node counts that are compiled; a row takes the first that its range allows, a wider one goes to the tiles.
_NODES = (64, 128, 256)
# Entries sorted at a time, so that the sort's own copies stay small beside the inputs.
_SORTED = 1 << 19
_ROWS, _COLUMNS = 32, 128


@triton.jit
@no_type_check
def _spans(student, mask, spans, candidates, inverse_tau, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    """Lowest and highest unmasked score / tau of each row."""
    row = tl.program_id(0).to(tl.int64)
    low = tl.full([BLOCK], float("inf"), tl.float32)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, candidates, BLOCK):
        at = start + tl.arange(0, BLOCK)
        here = at < candidates
        if MASKED:
            here = here & (tl.load(mask + row * candidates + at, mask=here, other=0) != 0)
        s = tl.load(student + row * candidates + at, mask=here, other=0.0).to(tl.float32) * inverse_tau
        low = tl.minimum(low, tl.where(here, s, float("inf")))
        high = tl.maximum(high, tl.where(here, s, float("-inf")))
    lowest, highest = tl.min(low, axis=0), tl.max(high, axis=0)
    # A row with no candidate: any finite range will do.
    tl.store(spans + row * 2, tl.where(lowest <= highest, lowest, 0.0))
    tl.store(spans + row * 2 + 1, tl.where(lowest <= highest, highest, 0.0))


@triton.jit
@no_type_check
def _load(scores, mask, row, at, candidates, missing, MASKED: tl.constexpr):
    here = at < candidates
    if MASKED:
        here = here & (tl.load(mask + row * candidates + at, mask=here, other=0) != 0)
    return tl.where(here, tl.load(scores + row * candidates + at, mask=here, other=0.0).to(tl.float32), missing), here


@triton.jit
@no_type_check
def _tiles(
    student, teacher, mask, spans, gradient, sums, counts, candidates, blocks, inverse_tau, widest, safe,
    MASKED: tl.constexpr, SOFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One block of candidates i of a row against all candidates j.

    A masked candidate's teacher score is NaN: it is neither above nor below any other, so it makes no pair.
    The logs are one log of a product: its exponent is taken out after each factor and added up beside the pairs' count.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    if high - low > widest:
        at = block * ROWS + tl.arange(0, ROWS)
        middle = low * 0.5 + high * 0.5
        si, here = _load(student, mask, row, at, candidates, 0.0, MASKED)
        ti, _ = _load(teacher, mask, row, at, candidates, float("nan"), MASKED)
        si = tl.where(here, (si * inverse_tau - middle) * LOG2E, 0.0)
        slope = tl.zeros([ROWS, COLUMNS], tl.float32)
        product = tl.full([ROWS, COLUMNS], 1.0, tl.float32)
        packed = tl.zeros([ROWS, COLUMNS], tl.int32)
        linear = tl.zeros([ROWS, COLUMNS], tl.float32)
        narrow = (high - low) * (0.5 * LOG2E) <= safe
        # Not used where the row is wide; held back so that it does not overflow there.
        inverse = tl.exp2(tl.minimum(tl.maximum(-si, -100.0), 100.0))
        for start in range(0, candidates, COLUMNS):
            other = start + tl.arange(0, COLUMNS)
            sj, exists = _load(student, mask, row, other, candidates, 0.0, MASKED)
            tj, _ = _load(teacher, mask, row, other, candidates, float("nan"), MASKED)
            sj = tl.where(exists, (sj * inverse_tau - middle) * LOG2E, 0.0)
            below = tj[None, :] < ti[:, None]
            above = tj[None, :] > ti[:, None]
            if SOFT:
                gap = sj[None, :] - si[:, None]
                e = tl.exp2(-tl.abs(gap))
                whole = 1.0 + e
                r = 1.0 / whole
                tgap = (tj[None, :] - ti[:, None]) * (inverse_tau * LOG2E)
                te = tl.exp2(-tl.abs(tgap))
                tr = 1.0 / (1.0 + te)
                target = tl.where(tgap > 0.0, te * tr, tr)
                doubt = tl.where(tgap > 0.0, tr, te * tr)
                slope += tl.where(below | above, tl.where(gap > 0.0, e * r, r) - target, 0.0)
                # A pair is met from both sides and counted from its better one.
                linear += tl.where(below, target * tl.maximum(gap, 0.0) + doubt * tl.maximum(-gap, 0.0), 0.0)
            elif narrow:
                odds = inverse[:, None] * tl.exp2(sj)[None, :]
                whole = 1.0 + odds
                r = 1.0 / whole
                slope += tl.where(below, -odds * r, tl.where(above, r, 0.0))
            else:
                gap = sj[None, :] - si[:, None]
                e = tl.exp2(-tl.abs(gap))
                whole = 1.0 + e
                r = 1.0 / whole
                slope += tl.where(below, -tl.where(gap > 0.0, r, e * r), 0.0)
                slope += tl.where(above, tl.where(gap > 0.0, e * r, r), 0.0)
                linear += tl.where(below, tl.maximum(gap, 0.0), 0.0)
            product *= tl.where(below, whole, 1.0)
            bits = product.to(tl.int32, bitcast=True)
            packed += (bits >> 23) - 127 + (below.to(tl.int32) << 20)
            product = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        pairs = packed >> 20
        logs = (packed & 0xFFFFF).to(tl.float32) + tl.log2(product) + linear
        tl.store(gradient + row * candidates + at, tl.where(here, tl.sum(slope, axis=1), 0.0), mask=at < candidates)
        tl.store(sums + row * blocks + block, tl.sum(tl.sum(logs, axis=1), axis=0) * LN2)
        tl.store(counts + row * blocks + block, tl.sum(tl.sum(pairs, axis=1), axis=0).to(tl.int64))


@triton.jit
@no_type_check
def _chebyshev(
    student, teacher, order, here, spans, gradient, sums, counts, candidates, blocks, above_span, upto_span,
    NODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Chebyshev sums of one row along the teacher's order, upwards (program 0 of 2) or downwards.

    student, teacher [rows, candidates] are sorted by the teacher, the `here` candidates that exist first.
    Within a block the strictly worse are summed by a 0/1 matrix; `strict` holds the sum before the tie that the last
    block ended in. Interpolation and running sums are in float64: the interpolation's weights alternate in sign, and
    float32 would lose to cancellation what the nodes gain.
    """
    row = tl.program_id(0).to(tl.int64)
    sign = 1.0 - 2.0 * tl.program_id(1)
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    span = high - low
    if (span > above_span) & (span <= upto_span):
        existing = tl.load(here + row).to(tl.int32)
        node = tl.arange(0, NODES)
        angle = (node.to(tl.float64) + 0.5) * (3.141592653589793 / NODES)
        points = (low * 0.5 + high * 0.5).to(tl.float64) + tl.maximum(span * 0.5, 1e-3).to(tl.float64) * _cosine(angle)
        weights = _cosine(angle - 1.5707963267948966) * (1 - 2 * (node % 2)).to(tl.float64)
        every = tl.zeros([NODES], tl.float64)
        strict = tl.zeros([NODES], tl.float64)
        every_loss = tl.zeros([NODES], tl.float64)
        strict_loss = tl.zeros([NODES], tl.float64)
        strict_count = tl.zeros([1], tl.int32)
        boundary = tl.full([1], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float64)
        number = tl.zeros([BLOCK], tl.int64)
        for start in range(0, existing, BLOCK):
            position = start + tl.arange(0, BLOCK)
            valid = position < existing
            at = row * candidates + tl.where(sign > 0, position, existing - 1 - position)
            s = tl.load(student + at, mask=valid, other=0.0)
            t = tl.where(valid, sign * tl.load(teacher + at, mask=valid, other=0.0), float("inf"))
            away = s.to(tl.float64)[:, None] - points[None, :]
            gap = sign * away.to(tl.float32)
            e = tl.exp(-tl.abs(gap))
            r = 1.0 / (1.0 + e)
            h = tl.where(valid[:, None], tl.where(gap > 0.0, r, e * r), 0.0)
            worse = ((t[None, :] < t[:, None]) & valid[None, :]).to(tl.float32)
            crossed = t > boundary
            away = tl.where(tl.abs(away) < 1e-13, 1e-13, away)
            basis = weights[None, :] / away
            scale = tl.sum(basis, axis=1)
            last = tl.max(tl.where(valid, t, float("-inf")), axis=0)
            before_last = (valid & (t < last)).to(tl.float32)
            same = boundary == last
            before = tl.dot(worse, h, input_precision="ieee").to(tl.float64)
            before += tl.where(crossed[:, None], every[None, :], strict[None, :])
            found = tl.sum(basis * before, axis=1) / scale
            place = tl.load(order + at, mask=valid, other=0)
            tl.atomic_add(gradient + row * candidates + place, (-sign * found).to(tl.float32), mask=valid)
            strict = tl.where(same, strict, every + tl.sum((h * before_last[:, None]).to(tl.float64), axis=0))
            every += tl.sum(h.to(tl.float64), axis=0)
            if sign > 0:
                f = tl.where(valid[:, None], tl.maximum(gap, 0.0) + tl.log(1.0 + e), 0.0)
                before = tl.dot(worse, f, input_precision="ieee").to(tl.float64)
                before += tl.where(crossed[:, None], every_loss[None, :], strict_loss[None, :])
                total += tl.where(valid, tl.sum(basis * before, axis=1) / scale, 0.0)
                earlier = tl.where(crossed, start, strict_count).to(tl.int64)
                number += tl.where(valid, earlier + tl.sum(worse, axis=1).to(tl.int64), 0)
                strict_loss = tl.where(
                    same, strict_loss, every_loss + tl.sum((f * before_last[:, None]).to(tl.float64), axis=0)
                )
                every_loss += tl.sum(f.to(tl.float64), axis=0)
                strict_count = tl.where(same, strict_count, start + tl.sum(before_last, axis=0).to(tl.int32))
            boundary = tl.where(same, boundary, last)
        if sign > 0:
            tl.store(sums + row * blocks, tl.sum(total, axis=0).to(tl.float32))
            tl.store(counts + row * blocks, tl.sum(number, axis=0))


@triton.jit
@no_type_check
def _cosine(angle):
    """cos for |angle| <= pi in float64 (Taylor in angle / 8, doubled three times); the GPU's own is float32."""
    x = angle * 0.125
    y = x * x
    c = 1.0 + y * (
        -1.0 / 2 + y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800 + y / 479001600.0))))
    )
    c = 2.0 * c * c - 1.0
    c = 2.0 * c * c - 1.0
    return 2.0 * c * c - 1.0


def run(student: Tensor, teacher: Tensor, exists: Tensor | None, options: PairOptions) -> tuple[Tensor, Tensor]:
    """Losses [rows] and gradient [rows, candidates] in float32 for scores [rows, candidates]."""
    rows, candidates = student.shape
    student, teacher = student.contiguous(), teacher.detach().contiguous()
    gradient = torch.zeros(rows, candidates, dtype=torch.float32, device=student.device)
    if rows == 0 or candidates == 0:
        return gradient.sum(-1), gradient
    masked = exists is not None
    mask = student if exists is None else exists.contiguous().view(torch.uint8)
    blocks = triton.cdiv(candidates, _ROWS)
    assert candidates <= 1 << 18, "the pairs' count shares its bits with the exponents"
    sums = torch.zeros(rows, blocks, dtype=torch.float32, device=student.device)
    counts = torch.zeros(rows, blocks, dtype=torch.int64, device=student.device)
    spans = torch.empty(rows, 2, dtype=torch.float32, device=student.device)
    inverse_tau = 1.0 / options.tau
    _spans[(rows,)](student, mask, spans, candidates, inverse_tau, MASKED=masked, BLOCK=1024)
    interpolate = candidates >= _INTERPOLATE_FROM and options.pair_target == "hard"
    widest = range_for(_NODES[-1]) if interpolate else -1.0
    _tiles[(rows * blocks,)](
        student, teacher, mask, spans, gradient, sums, counts, candidates, blocks, inverse_tau, widest, _SAFE,
        MASKED=masked, SOFT=options.pair_target == "soft", ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=8,
    )  # fmt: skip
    if interpolate:
        size = max(1, _SORTED // candidates)
        for start in range(0, rows, size):
            part = slice(start, start + size)
            _interpolate(
                student[part], teacher[part], None if exists is None else exists[part], spans[part], gradient[part],
                sums[part], counts[part], inverse_tau,
            )  # fmt: skip
    here = torch.full((rows,), candidates, device=student.device) if exists is None else exists.sum(-1)
    divisor = (counts.sum(-1) if options.normalize == "pairs" else here).clamp_min(1)
    gradient *= (inverse_tau / divisor).unsqueeze(-1)
    return sums.sum(-1) / divisor, gradient


def _interpolate(
    student: Tensor,
    teacher: Tensor,
    exists: Tensor | None,
    spans: Tensor,
    gradient: Tensor,
    sums: Tensor,
    counts: Tensor,
    inverse_tau: float,
) -> None:
    """The rows whose range allows it, into gradient, sums and counts; the other rows' programs return at once."""
    rows, candidates = student.shape
    kept = teacher.float() if exists is None else teacher.float().masked_fill(~exists, torch.inf)
    ordered, order = kept.sort(-1)
    scores = student.gather(-1, order).float() * inverse_tau
    here = torch.full((rows,), candidates, device=student.device) if exists is None else exists.sum(-1)
    above = -1.0
    for nodes in _NODES:
        upto = range_for(nodes)
        _chebyshev[(rows, 2)](
            scores, ordered, order, here, spans, gradient, sums, counts, candidates, sums.shape[1], above, upto,
            NODES=nodes, BLOCK=4096 // nodes, num_warps=8,
        )  # fmt: skip
        above = upto
