"""Tokens drawn on the GPU: one program per row finds the threshold of top_k and top_p, another adds noise and draws."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from grkd.kernels._row_triton import FLOOR, LN2, LOG2E, _log_sum, _merge, read

_LANES, _WARPS = 512, 16  # of the threshold's passes
_COUNTERS = 1024  # counters a step of the draw, four entries each


@triton.jit
@no_type_check
def _keys(x):
    """Integers in the order of the scores, and back: halving them ends after 32 steps whatever the scores."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
@no_type_check
def _log_mass(logits, vocabulary, cap, scale, floor, CAP: tl.constexpr, LANES: tl.constexpr):
    """Log-sum-exp, in log 2, of scores whose key is `floor` or more; the lowest and the highest of these keys."""
    within = tl.arange(0, LANES)[:, None] * 8 + tl.arange(0, 8)[None, :]
    top = tl.full([LANES], FLOOR, tl.float32)
    mass = tl.zeros([LANES], tl.float32)
    low = tl.full([LANES], 2147483647, tl.int32)
    high = tl.full([LANES], -2147483648, tl.int32)
    for step in range(tl.cdiv(vocabulary, LANES * 8)):
        at = step * (LANES * 8) + within
        inside = at < vocabulary
        x, _ = read(logits, logits, at, inside, cap, False, CAP, False)
        key = _keys(x)
        kept = inside & (key >= floor)
        top, mass = _merge(top, mass, tl.where(kept, x * scale, FLOOR))
        low = tl.minimum(low, tl.min(tl.where(kept, key, 2147483647), axis=1))
        high = tl.maximum(high, tl.max(tl.where(kept, key, -2147483648), axis=1))
    return _log_sum(top, mass), tl.min(low, axis=0), tl.max(high, axis=0)


@triton.jit
@no_type_check
def _lowest_kept(
    logits, vocabulary, cap, scale, log_sum, low, high, target,
    COUNT: tl.constexpr, CAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The highest key such that entries of this key or more reach the target: in number (COUNT) or in mass.

    Entries from `low` on reach it; `high` is the highest key. Halves the range until no key is left inside.
    """
    within = tl.arange(0, LANES)[:, None] * 8 + tl.arange(0, 8)[None, :]
    above = high + 1
    going = low < high
    while going:
        middle = (low >> 1) + (above >> 1) + (low & above & 1)
        total = tl.zeros([LANES], tl.float32)
        next_up = tl.full([LANES], 2147483647, tl.int32)
        next_down = tl.full([LANES], -2147483648, tl.int32)
        for step in range(tl.cdiv(vocabulary, LANES * 8)):
            at = step * (LANES * 8) + within
            inside = at < vocabulary
            x, _ = read(logits, logits, at, inside, cap, False, CAP, False)
            key = _keys(x)
            up = inside & (key >= middle)
            share = tl.where(up, 1.0, 0.0) if COUNT else tl.where(up, tl.exp2(x * scale - log_sum), 0.0)
            total += tl.sum(share, axis=1)
            next_up = tl.minimum(next_up, tl.min(tl.where(up, key, 2147483647), axis=1))
            next_down = tl.maximum(next_down, tl.max(tl.where(inside & (key < middle), key, -2147483648), axis=1))
        enough = tl.sum(total, axis=0) >= target
        up, down = tl.min(next_up, axis=0), tl.max(next_down, axis=0)
        # Where enough are kept, the lowest of them is the new bound; else, where none is between, `low` is it.
        going = tl.where(enough, middle > low, down > low)
        low = tl.where(enough, up, low)
        above = tl.where(enough, above, middle)
    return low


@triton.jit
@no_type_check
def _thresholds(
    logits, row_stride, thresholds, vocabulary, cap, inverse_temperature, top_p, top_k,
    TOP_P: tl.constexpr, TOP_K: tl.constexpr, CAP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Key of the lowest capped score of a row that top_k, then top_p, keep."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    scale = LOG2E * inverse_temperature
    log_sum, low, high = _log_mass(logits, vocabulary, cap, scale, -2147483648, CAP, LANES)
    if TOP_K:
        low = _lowest_kept(logits, vocabulary, cap, scale, log_sum, low, high, top_k, True, CAP, LANES)
        if TOP_P:
            log_sum, low, high = _log_mass(logits, vocabulary, cap, scale, low, CAP, LANES)
    if TOP_P:
        low = _lowest_kept(logits, vocabulary, cap, scale, log_sum, low, high, top_p, False, CAP, LANES)
    tl.store(thresholds + row, low)


@triton.jit
@no_type_check
def _taken(
    logits, at, bits, best, index, top, mass, vocabulary, cap, scale, threshold,
    GREEDY: tl.constexpr, KEPT: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Each lane's best entry, maximum and mass after one more entry a lane."""
    inside = at < vocabulary
    x, _ = read(logits, logits, at, inside, cap, False, CAP, False)
    if KEPT:
        inside = inside & (_keys(x) >= threshold)
    z = tl.where(inside, x * scale, FLOOR)
    higher = tl.maximum(top, z)
    mass = mass * tl.exp2(top - higher) + tl.where(inside, tl.exp2(z - higher), 0.0)
    score = z
    if not GREEDY:
        share = ((bits >> 1).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10  # 2^-31
        small = share * (1.0 + share * (0.5 + share * (1.0 / 3.0)))
        exact = -tl.log(1.0 - tl.minimum(share, 0.99999994))
        waiting = tl.where(share < 0.00390625, small, exact)
        score = z - tl.log2(waiting)
    better = inside & (score > best)
    return tl.where(better, score, best), tl.where(better, at, index), higher, mass


@triton.jit
@no_type_check
def _draw(
    logits, row_stride, seeds, places, thresholds, tokens, log_probs, vocabulary, cap, inverse_temperature,
    GREEDY: tl.constexpr, KEPT: tl.constexpr, CAP: tl.constexpr, COUNTERS: tl.constexpr,
):  # fmt: skip
    """One row's token and its log-probability; entries below the row's threshold do not take part."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    seed = tl.load(seeds + row)
    place = tl.load(places + row).to(tl.int32)
    threshold = tl.load(thresholds + row) if KEPT else 0
    scale = LOG2E * inverse_temperature
    lane = tl.arange(0, COUNTERS)
    best = tl.full([COUNTERS], float("-inf"), tl.float32)
    index = tl.full([COUNTERS], 2147483647, tl.int32)
    top = tl.full([COUNTERS], FLOOR, tl.float32)
    mass = tl.zeros([COUNTERS], tl.float32)
    for step in range(tl.cdiv(vocabulary, COUNTERS * 4)):
        counter = step * COUNTERS + lane
        at = counter * 4
        none = counter * 0
        # A seed of 64 bits is the key; the words belong to four neighbouring entries.
        w0, w1, w2, w3 = tl.philox(seed, counter, place + none, none, none)
        best, index, top, mass = _taken(
            logits, at, w0, best, index, top, mass, vocabulary, cap, scale, threshold, GREEDY, KEPT, CAP
        )
        best, index, top, mass = _taken(
            logits, at + 1, w1, best, index, top, mass, vocabulary, cap, scale, threshold, GREEDY, KEPT, CAP
        )
        best, index, top, mass = _taken(
            logits, at + 2, w2, best, index, top, mass, vocabulary, cap, scale, threshold, GREEDY, KEPT, CAP
        )
        best, index, top, mass = _taken(
            logits, at + 3, w3, best, index, top, mass, vocabulary, cap, scale, threshold, GREEDY, KEPT, CAP
        )
    highest = tl.max(best, axis=0)
    token = tl.min(tl.where(best == highest, index, 2147483647), axis=0)
    token = tl.minimum(token, vocabulary - 1)  # a row of NaN has no best entry
    own, _ = read(logits, logits, token, token >= 0, cap, False, CAP, False)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(log_probs + row, (own * scale - _log_sum(top, mass)) * LN2)


def run(
    logits: Tensor,
    seeds: Tensor,
    places: Tensor,
    *,
    temperature: float,
    top_p: float,
    top_k: int,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """grkd.kernels.draw_tokens on the device, with its options checked."""
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    log_probs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    thresholds = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if not rows:
        return tokens, log_probs
    greedy = temperature == 0
    inverse, cap = 1.0 if greedy else 1.0 / temperature, softcap or 1.0
    kept = not greedy and (top_p < 1 or top_k > 0)
    if kept:
        _thresholds[(rows,)](
            logits, logits.stride(0), thresholds, vocabulary, cap, inverse, top_p, float(top_k),
            TOP_P=top_p < 1, TOP_K=top_k > 0, CAP=softcap is not None, LANES=_LANES, num_warps=_WARPS,
        )  # fmt: skip
    _draw[(rows,)](
        logits, logits.stride(0), seeds, places, thresholds, tokens, log_probs, vocabulary, cap, inverse,
        GREEDY=greedy, KEPT=kept, CAP=softcap is not None, COUNTERS=_COUNTERS, num_warps=_WARPS,
    )  # fmt: skip
    return tokens, log_probs
