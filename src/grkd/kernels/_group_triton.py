"""The group of each row and its pair term: two small kernels after the row kernel.

A group is drawn from the lane masses that the row kernel kept: a lane by its mass, then one of the lane's entries
(which are read again), G times without replacement. That is the distribution of Gumbel top-G, with 2G random numbers
a row in place of one an entry; the top G are found in the same way from the lanes' maxima. The group's scores are
computed again in float32, since 16-bit logits tie where the models' scores do not.
"""

from typing import no_type_check

import triton
import triton.language as tl

from grkd.kernels._row_triton import LOG2E, TAKEN, no_lower, read, slope_of, tanh


@triton.jit
@no_type_check
def _draw(weights, uniform, size: tl.constexpr):
    """Index drawn in proportion to the weights; the largest where rounding leaves none."""
    reached = tl.cumsum(weights, 0)
    at = tl.arange(0, size)
    target = uniform * tl.sum(weights, axis=0)
    first = tl.min(tl.where((reached > target) & (weights > 0), at, size), axis=0)
    return tl.where(first < size, first, tl.argmax(weights, axis=0))


@triton.jit
@no_type_check
def choose_kernel(
    teacher, row_stride, teacher_bias, teacher_cap, weights, uniforms, lanes, indices, vocabulary, temperature,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SAMPLE: tl.constexpr, LANES: tl.constexpr, STEPS_PAD: tl.constexpr,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One row's group into indices [rows, GROUP]; -1 throughout if the row does not count."""
    row = tl.program_id(0).to(tl.int64)
    teacher += row * row_stride
    uniforms += row * (2 * GROUP)
    scale = LOG2E / temperature
    turns = tl.where(tl.load(weights + row) == 0.0, 0, GROUP)
    slot = tl.arange(0, GROUP_PAD)
    chosen = tl.full([GROUP_PAD], -1, tl.int32)
    lane_ids = tl.arange(0, LANES)
    top = tl.load(lanes + row * (2 * LANES) + lane_ids)
    mass = tl.load(lanes + row * (2 * LANES) + LANES + lane_ids)
    inner = tl.arange(0, STEPS_PAD * 8)
    first = tl.zeros([GROUP_PAD], tl.float32)
    second = tl.zeros([GROUP_PAD], tl.float32)
    if SAMPLE:
        # All numbers at once: one a turn would wait for memory 2G times.
        first = tl.load(uniforms + 2 * slot, mask=slot < GROUP, other=0.0)
        second = tl.load(uniforms + 2 * slot + 1, mask=slot < GROUP, other=0.0)
    for g in range(turns):
        highest = tl.max(top, axis=0)
        if SAMPLE:
            lane = _draw(mass * tl.exp2(top - highest), tl.sum(tl.where(slot == g, first, 0.0), axis=0), LANES)
        else:
            lane = tl.argmax(top, axis=0)
        at = (inner // 8) * (LANES * 8) + lane * 8 + inner % 8
        # The entries along the last axis: the sum over the group then stays within a thread.
        taken = tl.sum((chosen[:, None] == at[None, :]).to(tl.int32), axis=0)
        open_ = (at < vocabulary) & (taken == 0)
        z, _ = read(teacher, teacher_bias, at, at < vocabulary, teacher_cap, HAS_BIAS, CAP, FAST)
        z = tl.where(open_, no_lower(z * scale), TAKEN)
        if SAMPLE:
            best = tl.max(z, axis=0)
            uniform = tl.sum(tl.where(slot == g, second, 0.0), axis=0)
            pick = _draw(tl.where(open_, tl.exp2(z - best), 0.0), uniform, STEPS_PAD * 8)
        else:
            pick = tl.argmax(z, axis=0)
        index = (pick // 8) * (LANES * 8) + lane * 8 + pick % 8
        chosen = tl.where(slot == g, index, chosen)
        z = tl.where(inner == pick, TAKEN, z)
        rest = tl.max(z, axis=0)
        left = tl.sum(tl.where(z > TAKEN, tl.exp2(z - rest), 0.0), axis=0)
        top = tl.where(lane_ids == lane, rest, top)
        mass = tl.where(lane_ids == lane, left, mass)
    tl.store(indices + row * GROUP + slot, chosen.to(tl.int64), mask=slot < GROUP)


@triton.jit
@no_type_check
def dots(hidden, weight, stride, chosen, width, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr):
    """Products of one hidden state with the chosen rows of the weight, in float32."""
    total = tl.zeros([GROUP_PAD, WIDTH], tl.float32)
    rows = weight + tl.maximum(chosen, 0).to(tl.int64)[:, None] * stride
    for start in tl.range(0, width, WIDTH, num_stages=STAGES):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        state = tl.load(hidden + column, mask=inside, other=0.0).to(tl.float32)
        entries = tl.load(rows + column[None, :], mask=inside[None, :] & (chosen >= 0)[:, None], other=0.0)
        total += entries.to(tl.float32) * state[None, :]
    return tl.sum(total, axis=1)


@triton.jit
@no_type_check
def _to_hidden(slope, weight, stride, chosen, gradient, width, WIDTH: tl.constexpr, STAGES: tl.constexpr):
    """One row's gradient of the hidden state: its slopes times the chosen rows of the weight."""
    rows = weight + tl.maximum(chosen, 0).to(tl.int64)[:, None] * stride
    for start in tl.range(0, width, WIDTH, num_stages=STAGES):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        entries = tl.load(rows + column[None, :], mask=inside[None, :] & (chosen >= 0)[:, None], other=0.0)
        tl.store(gradient + column, tl.sum(entries.to(tl.float32) * slope[:, None], axis=0), mask=inside)


@triton.jit
@no_type_check
def _log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
@no_type_check
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x > 0.0, 1.0, e) / (1.0 + e)


@triton.jit
@no_type_check
def pair_term(student, teacher, exists, tau, SOFT: tl.constexpr, PER_PAIR: tl.constexpr):
    """The row's pair loss and its gradient by the student's scores: grkd.losses.group_relative for one small group."""
    ordered = ((teacher[:, None] > teacher[None, :]) & exists[:, None] & exists[None, :]).to(tl.float32)
    gap = (student[:, None] - student[None, :]) / tau
    # Pairs in no order are left out first: two scores of -inf differ by NaN.
    wanted = tl.where(ordered > 0.0, teacher[:, None] - teacher[None, :], 0.0)
    target = _sigmoid(wanted / tau) if SOFT else gap * 0.0 + 1.0
    loss = -target * _log_sigmoid(gap) - (1.0 - target) * _log_sigmoid(-gap)
    # For hard pairs -sigmoid(-gap) and not sigmoid(gap) - 1, which is 0 from a gap of 17 on.
    slope = (_sigmoid(gap) - target if SOFT else -_sigmoid(-gap)) * ordered
    count = tl.sum(tl.sum(ordered, axis=1), axis=0) if PER_PAIR else tl.sum(exists.to(tl.float32), axis=0)
    share = 1.0 / tl.maximum(count, 1.0)
    total = tl.sum(tl.sum(loss * ordered, axis=1), axis=0) * share
    return total, (tl.sum(slope, axis=1) - tl.sum(slope, axis=0)) * share / tau


@triton.jit
@no_type_check
def group_kernel(
    gradient, row_stride, student_bias, teacher_bias, student_cap, teacher_cap,
    student_hidden, student_weight, student_weight_stride, student_width,
    teacher_hidden, teacher_weight, teacher_weight_stride, teacher_width, teacher_scores,
    weights, inverse_rows, indices, slopes, hidden_gradient, statistics, losses, temperature, tau,
    pair_weight, divergence_weight, log_beta, log_rest, rest,
    KIND: tl.constexpr, DIVERGENCE: tl.constexpr, TEACHER_KNOWN: tl.constexpr,
    SOFT: tl.constexpr, PER_PAIR: tl.constexpr, GRADIENT: tl.constexpr, HIDDEN: tl.constexpr, SCALED: tl.constexpr,
    HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, FAST: tl.constexpr,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One row's pair loss and its slopes by the raw scores of the group; with GRADIENT, also the group's
    entries of the logits' gradient, divergence and pairs together, so that they are rounded once; with HIDDEN, the
    gradient of the hidden state, where it is these slopes' alone."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, GROUP_PAD)
    weight = tl.load(weights + row)
    if weight == 0.0:
        tl.store(slopes + row * GROUP + slot, tl.zeros([GROUP_PAD], tl.float32), mask=slot < GROUP)
        tl.store(losses + row * 2, 0.0)
        if HIDDEN:
            for start in range(0, student_width, WIDTH):
                column = start + tl.arange(0, WIDTH)
                zero = tl.zeros([WIDTH], tl.float32)
                tl.store(hidden_gradient + row * student_width + column, zero, mask=column < student_width)
    else:
        chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1).to(tl.int32)
        exists = chosen >= 0
        entry = tl.maximum(chosen, 0)
        if TEACHER_KNOWN:
            st = tl.load(teacher_scores + row * GROUP + slot, mask=exists, other=0.0).to(tl.float32)
        else:
            st = dots(
                teacher_hidden + row * teacher_width, teacher_weight, teacher_weight_stride, chosen, teacher_width,
                GROUP_PAD, WIDTH, STAGES,
            )  # fmt: skip
            if HAS_TEACHER_BIAS:
                st += tl.load(teacher_bias + entry, mask=exists, other=0.0).to(tl.float32)
            if TEACHER_CAP:
                st = tanh(st / teacher_cap, False) * teacher_cap
        # The student last: its rows of the weight are still in the cache when HIDDEN reads them again.
        ss = dots(
            student_hidden + row * student_width, student_weight, student_weight_stride, chosen, student_width,
            GROUP_PAD, WIDTH, STAGES,
        )  # fmt: skip
        if HAS_STUDENT_BIAS:
            ss += tl.load(student_bias + entry, mask=exists, other=0.0).to(tl.float32)
        bend = tl.full([GROUP_PAD], 1.0, tl.float32)
        if STUDENT_CAP:
            bent = tanh(ss / student_cap, False)
            bend = 1.0 - bent * bent
            ss = bent * student_cap
        loss, slope = pair_term(ss, st, exists, tau, SOFT, PER_PAIR)
        share = 1.0
        if SCALED:
            share = tl.load(inverse_rows).to(tl.float32)
        slope = slope * bend * (weight * pair_weight * share)
        tl.store(losses + row * 2, loss * weight * pair_weight)
        tl.store(slopes + row * GROUP + slot, slope, mask=slot < GROUP)
        if HIDDEN:
            _to_hidden(
                slope, student_weight, student_weight_stride, chosen, hidden_gradient + row * student_width,
                student_width, WIDTH, STAGES,
            )  # fmt: skip
        if GRADIENT:
            # A candidate that a given group names twice gets the sum of both, whichever store comes last.
            same = (chosen[:, None] == chosen[None, :]).to(tl.float32)
            held = tl.sum(same * slope[None, :], axis=1)
            if DIVERGENCE:
                scale = LOG2E / temperature
                log_s, log_t = tl.load(statistics + row * 3), tl.load(statistics + row * 3 + 1)
                mean = tl.load(statistics + row * 3 + 2)
                soft, _ = slope_of(ss * scale, st * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
                held += soft * bend * (weight * divergence_weight * share / temperature)
            tl.store(gradient + row * row_stride + entry, held, mask=exists)
