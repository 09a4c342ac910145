"""All pairs in tiles on the GPU: every pair of a row, two exponentials a candidate and one reciprocal a pair."""

from typing import no_type_check

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
@no_type_check
def spans_kernel(student, mask, spans, candidates, inverse_tau, MASKED: tl.constexpr, BLOCK: tl.constexpr):
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
def _load(scores, mask, at, candidates, missing, MASKED: tl.constexpr):
    here = at < candidates
    if MASKED:
        here = here & (tl.load(mask + at, mask=here, other=0) != 0)
    return tl.where(here, tl.load(scores + at, mask=here, other=0.0).to(tl.float32), missing), here


@triton.jit
@no_type_check
def reciprocal(x, FAST: tl.constexpr):
    """1 / x for x in [1, 2^121]: one instruction with an error of one unit in the last place."""
    if FAST:
        y = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 / x
    return y


@triton.jit
@no_type_check
def _against_all(
    si, ti, student, teacher, mask, candidates, inverse_tau, middle,
    KIND: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Slopes [ROWS], log sum and pairs of candidates i (si in log 2, around the middle) against all j.

    The logs are one log of a product, whose exponent is taken out after every second factor: factors are in [1, 2],
    and where exp(s_j - s_i) is a product at most 1 + 2^62, so that 2 * factor * factor stays below 2^128.
    """
    slope = tl.zeros([ROWS, COLUMNS], tl.float32)
    product = tl.full([ROWS, COLUMNS], 1.0, tl.float32)
    exponents = tl.zeros([ROWS, COLUMNS], tl.int32)
    pairs = tl.zeros([ROWS, COLUMNS], tl.int32)
    linear = tl.zeros([ROWS, COLUMNS], tl.float32)
    inverse = tl.exp2(-si) if KIND == "narrow" else si
    for start in range(0, candidates, 2 * COLUMNS):
        for half in tl.static_range(2):
            other = start + half * COLUMNS + tl.arange(0, COLUMNS)
            sj, exists = _load(student, mask, other, candidates, 0.0, MASKED)
            tj, _exists = _load(teacher, mask, other, candidates, float("nan"), MASKED)
            sj = tl.where(exists, (sj * inverse_tau - middle) * LOG2E, 0.0)
            below = tj[None, :] < ti[:, None]
            above = tj[None, :] > ti[:, None]
            if KIND == "narrow":
                odds = inverse[:, None] * tl.exp2(sj)[None, :]
                whole = 1.0 + odds
                r = reciprocal(whole, FAST)
                slope += tl.where(below, -odds, tl.where(above, 1.0, 0.0)) * r
            else:
                gap = sj[None, :] - si[:, None]
                e = tl.exp2(-tl.abs(gap))
                whole = 1.0 + e
                r = reciprocal(whole, FAST)
                right = tl.where(gap > 0.0, e * r, r)
                if KIND == "soft":
                    tgap = (tj[None, :] - ti[:, None]) * (inverse_tau * LOG2E)
                    te = tl.exp2(-tl.abs(tgap))
                    tr = reciprocal(1.0 + te, FAST)
                    target = tl.where(tgap > 0.0, te * tr, tr)
                    doubt = tl.where(tgap > 0.0, tr, te * tr)
                    slope += tl.where(below | above, right - target, 0.0)
                    # A pair is met from both sides and counted from its better one.
                    linear += tl.where(below, target * tl.maximum(gap, 0.0) + doubt * tl.maximum(-gap, 0.0), 0.0)
                else:
                    wrong = tl.where(gap > 0.0, r, e * r)
                    slope += tl.where(below, -wrong, tl.where(above, right, 0.0))
                    linear += tl.where(below, tl.maximum(gap, 0.0), 0.0)
            product *= tl.where(below, whole, 1.0)
            pairs += below.to(tl.int32)
        bits = product.to(tl.int32, bitcast=True)
        exponents += (bits >> 23) - 127
        product = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    logs = exponents.to(tl.float32) + tl.log2(product) + linear
    return (
        tl.sum(slope, axis=1),
        tl.sum(tl.sum(logs, axis=1), axis=0) * LN2,
        tl.sum(tl.sum(pairs, axis=1), axis=0),
    )


@triton.jit
@no_type_check
def tiles_kernel(
    student, teacher, mask, spans, gradient, sums, counts, candidates, blocks, inverse_tau, widest, safe,
    MASKED: tl.constexpr, SOFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One block of candidates of a row whose range is above `widest`, against all of the row.

    A masked candidate's teacher score is NaN: it is neither above nor below any other, so it makes no pair.
    Where the scores lie within `safe` of their middle, exp(s_j - s_i) is a product of numbers made once per candidate.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    low, high = tl.load(spans + row * 2), tl.load(spans + row * 2 + 1)
    if high - low > widest:
        student += row * candidates
        teacher += row * candidates
        if MASKED:
            mask += row * candidates
        at = block * ROWS + tl.arange(0, ROWS)
        middle = low * 0.5 + high * 0.5
        si, here = _load(student, mask, at, candidates, 0.0, MASKED)
        ti, _here = _load(teacher, mask, at, candidates, float("nan"), MASKED)
        si = tl.where(here, (si * inverse_tau - middle) * LOG2E, 0.0)
        if SOFT:
            slope, logs, pairs = _against_all(
                si, ti, student, teacher, mask, candidates, inverse_tau, middle, "soft", MASKED, ROWS, COLUMNS, FAST
            )
        else:
            if (high - low) * (0.5 * LOG2E) <= safe:
                slope, logs, pairs = _against_all(
                    si, ti, student, teacher, mask, candidates, inverse_tau, middle,
                    "narrow", MASKED, ROWS, COLUMNS, FAST,
                )  # fmt: skip
            else:
                slope, logs, pairs = _against_all(
                    si, ti, student, teacher, mask, candidates, inverse_tau, middle,
                    "wide", MASKED, ROWS, COLUMNS, FAST,
                )  # fmt: skip
        tl.store(gradient + row * candidates + at, tl.where(here, slope, 0.0), mask=at < candidates)
        tl.store(sums + row * blocks + block, logs)
        tl.store(counts + row * blocks + block, pairs.to(tl.int64))
