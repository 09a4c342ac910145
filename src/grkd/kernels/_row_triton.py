"""The head's row kernel: one program reads a student and a teacher row of logits and writes the gradient in place.

A row is read in blocks of LANES * 8 entries; lane l holds 8 neighbouring entries of each block. Every lane keeps its
own running maximum and sum of exponentials, so that nothing crosses threads until the row's end. Those 'lane masses'
are also what a sampled group is drawn from: a lane by its mass, then one of the lane's entries (which are read again),
G times without replacement. That is the distribution of Gumbel top-G, with 2G random numbers a row in place of one an
entry, and the top G are found in the same way from the lanes' maxima. Scores are in units of log 2: z = x log2(e) / T.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Stands for -inf where a difference of two of them must not be NaN.
FLOOR = tl.constexpr(-1.0e30)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check
def _tanh(x, FAST: tl.constexpr):
    if FAST:
        # One instruction; its relative error of 2^-11 is a quarter of the rounding of the bf16 logit it is applied to.
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E)))
    return y


@triton.jit
@no_type_check
def _read(
    logits, bias, at, inside, cap,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, FAST: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Capped scores in float32 and tanh of the cap (0 without one), whose square the gradient needs."""
    x = tl.load(logits + at, mask=inside, other=0.0, eviction_policy=KEEP).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    curve = x * 0.0
    if CAP:
        curve = _tanh(x * (1.0 / cap), FAST)
        x = curve * cap
    return x, curve


@triton.jit
@no_type_check
def _merge(top, mass, z):
    """Lane maxima and masses after 8 more entries a lane."""
    higher = tl.maximum(top, tl.max(z, axis=1))
    mass = mass * tl.exp2(top - higher) + tl.sum(tl.exp2(z - higher[:, None]), axis=1)
    return higher, mass


@triton.jit
@no_type_check
def _log_sum(top, mass):
    highest = tl.max(top, axis=0)
    return highest + tl.log2(tl.sum(mass * tl.exp2(top - highest), axis=0))


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
def _group(
    teacher, teacher_bias, teacher_cap, uniforms, top, mass, scale, vocabulary,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SAMPLE: tl.constexpr, LANES: tl.constexpr, STEPS_PAD: tl.constexpr,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Indices [GROUP_PAD] of the row's group, -1 in the padding."""
    slot = tl.arange(0, GROUP_PAD)
    chosen = tl.full([GROUP_PAD], -1, tl.int32)
    lane_ids = tl.arange(0, LANES)
    inner = tl.arange(0, STEPS_PAD * 8)
    for g in range(GROUP):
        highest = tl.max(top, axis=0)
        if SAMPLE:
            lane = _draw(mass * tl.exp2(top - highest), tl.load(uniforms + 2 * g), LANES)
        else:
            lane = tl.argmax(top, axis=0)
        at = (inner // 8) * (LANES * 8) + lane * 8 + inner % 8
        taken = tl.sum((at[:, None] == chosen[None, :]).to(tl.int32), axis=1) > 0
        open_ = (at < vocabulary) & (taken == 0)
        z, _ = _read(teacher, teacher_bias, at, at < vocabulary, teacher_cap, HAS_BIAS, CAP, FAST, "")
        z = tl.where(open_, z * scale, FLOOR)
        if SAMPLE:
            best = tl.max(z, axis=0)
            pick = _draw(tl.where(open_, tl.exp2(z - best), 0.0), tl.load(uniforms + 2 * g + 1), STEPS_PAD * 8)
        else:
            pick = tl.argmax(z, axis=0)
        index = (pick // 8) * (LANES * 8) + lane * 8 + pick % 8
        chosen = tl.where(slot == g, index, chosen)
        z = tl.where(inner == pick, FLOOR, z)
        rest = tl.max(z, axis=0)
        left = tl.sum(tl.where(z > FLOOR, tl.exp2(z - rest), 0.0), axis=0)
        top = tl.where(lane_ids == lane, rest, top)
        mass = tl.where(lane_ids == lane, left, mass)
    return chosen


@triton.jit
@no_type_check
def _dots(hidden, weight, stride, chosen, width, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr):
    """Products of one hidden state with the chosen rows of the weight, in float32."""
    total = tl.zeros([GROUP_PAD, WIDTH], tl.float32)
    rows = weight + tl.maximum(chosen, 0).to(tl.int64)[:, None] * stride
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < width
        state = tl.load(hidden + column, mask=inside, other=0.0).to(tl.float32)
        entries = tl.load(rows + column[None, :], mask=inside[None, :] & (chosen >= 0)[:, None], other=0.0)
        total += entries.to(tl.float32) * state[None, :]
    return tl.sum(total, axis=1)


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
    target = _sigmoid((teacher[:, None] - teacher[None, :]) / tau) if SOFT else gap * 0.0 + 1.0
    loss = -target * _log_sigmoid(gap) - (1.0 - target) * _log_sigmoid(-gap)
    # For hard pairs -sigmoid(-gap) and not sigmoid(gap) - 1, which is 0 from a gap of 17 on.
    slope = (_sigmoid(gap) - target if SOFT else -_sigmoid(-gap)) * ordered
    count = tl.sum(tl.sum(ordered, axis=1), axis=0) if PER_PAIR else tl.sum(exists.to(tl.float32), axis=0)
    share = 1.0 / tl.maximum(count, 1.0)
    total = tl.sum(tl.sum(loss * ordered, axis=1), axis=0) * share
    return total, (tl.sum(slope, axis=1) - tl.sum(slope, axis=0)) * share / tau


@triton.jit
@no_type_check
def _slope(zs, zt, log_s, log_t, mean, log_beta, log_rest, rest, KIND: tl.constexpr):
    """Gradient of the divergence by z_S / T (natural units), and the terms of its value; logs in units of log 2."""
    ls, lt = zs - log_s, zt - log_t
    ps = tl.exp2(ls)
    if KIND == "soft_target":
        pt = tl.exp2(lt)
        return ps - pt, -pt * ls * LN2
    if KIND == "forward_kl":
        pt = tl.exp2(lt)
        return ps - pt, pt * (lt - ls) * LN2
    if KIND == "reverse_kl":
        gap = (ls - lt) * LN2
        return ps * (gap - mean), ps * gap
    higher = tl.maximum(lt + log_beta, ls + log_rest)
    mixture = higher + tl.log2(tl.exp2(lt + log_beta - higher) + tl.exp2(ls + log_rest - higher))
    gap = (ls - mixture) * LN2
    value = rest * ps * gap + (1.0 - rest) * tl.exp2(lt) * (lt - mixture) * LN2
    return rest * ps * (gap - mean), value


@triton.jit
@no_type_check
def row_kernel(
    student, teacher, row_stride, student_bias, teacher_bias, student_cap, teacher_cap,
    student_hidden, student_weight, student_weight_stride, student_width,
    teacher_hidden, teacher_weight, teacher_weight_stride, teacher_width,
    weights, inverse_rows, uniforms, indices, pair_gradient, statistics, losses,
    vocabulary, temperature, group_temperature, tau, pair_weight, divergence_weight, log_beta, log_rest, rest,
    KIND: tl.constexpr, CHOICE: tl.constexpr, PAIRS: tl.constexpr, DIVERGENCE: tl.constexpr, SAME_T: tl.constexpr,
    SOFT: tl.constexpr, PER_PAIR: tl.constexpr, RESCORE: tl.constexpr, GRADIENT: tl.constexpr, SCALED: tl.constexpr,
    HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, FAST: tl.constexpr,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, LANES: tl.constexpr, STEPS_PAD: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr, HINT1: tl.constexpr, HINT2: tl.constexpr,
):  # fmt: skip
    """One row: statistics, group, pair term, then the gradient of the student's logits, in place of them."""
    row = tl.program_id(0).to(tl.int64)
    student += row * row_stride
    teacher += row * row_stride
    weight = tl.load(weights + row)
    BLOCK: tl.constexpr = LANES * 8
    lane = tl.arange(0, LANES)
    within = lane[:, None] * 8 + tl.arange(0, 8)[None, :]
    steps = tl.cdiv(vocabulary, BLOCK)
    slot = tl.arange(0, GROUP_PAD)
    if weight == 0.0:
        # The row does not count: its gradient is 0 whatever its logits hold.
        if GRADIENT:
            zero = tl.zeros([LANES, 8], tl.float32)
            for step in range(steps):
                at = step * BLOCK + within
                tl.store(student + at, zero, mask=at < vocabulary)
        if PAIRS:
            tl.store(pair_gradient + row * GROUP + slot, tl.zeros([GROUP_PAD], tl.float32), mask=slot < GROUP)
            if CHOICE != "given":
                tl.store(indices + row * GROUP + slot, tl.full([GROUP_PAD], -1, tl.int64), mask=slot < GROUP)
        tl.store(losses + row * 2, 0.0)
        tl.store(losses + row * 2 + 1, 0.0)
        tl.store(statistics + row * 3, 0.0)
        tl.store(statistics + row * 3 + 1, 0.0)
        tl.store(statistics + row * 3 + 2, 0.0)
    else:
        scale = LOG2E / temperature
        group_scale = LOG2E / group_temperature
        student_top = tl.full([LANES], FLOOR, tl.float32)
        teacher_top = tl.full([LANES], FLOOR, tl.float32)
        group_top = tl.full([LANES], FLOOR, tl.float32)
        student_mass = tl.zeros([LANES], tl.float32)
        teacher_mass = tl.zeros([LANES], tl.float32)
        group_mass = tl.zeros([LANES], tl.float32)
        for step in tl.range(0, steps, num_stages=STAGES):
            at = step * BLOCK + within
            inside = at < vocabulary
            xt, _ = _read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST, HINT1)
            if DIVERGENCE:
                xs, _ = _read(
                    student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST, HINT1
                )
                student_top, student_mass = _merge(student_top, student_mass, tl.where(inside, xs * scale, FLOOR))
                teacher_top, teacher_mass = _merge(teacher_top, teacher_mass, tl.where(inside, xt * scale, FLOOR))
            if PAIRS and CHOICE != "given" and not (SAME_T and DIVERGENCE):
                group_top, group_mass = _merge(group_top, group_mass, tl.where(inside, xt * group_scale, FLOOR))
        log_s, log_t, mean = 0.0, 0.0, 0.0
        if DIVERGENCE:
            log_s, log_t = _log_sum(student_top, student_mass), _log_sum(teacher_top, teacher_mass)
        pair_factor, divergence_factor = weight * pair_weight, weight * divergence_weight
        if SCALED:
            share = tl.load(inverse_rows).to(tl.float32)
            pair_factor *= share
            divergence_factor *= share
        chosen = tl.full([GROUP_PAD], -1, tl.int32)
        slope = tl.zeros([GROUP_PAD], tl.float32)
        if PAIRS:
            if CHOICE == "given":
                chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1).to(tl.int32)
            else:
                if SAME_T and DIVERGENCE:
                    group_top, group_mass = teacher_top, teacher_mass
                chosen = _group(
                    teacher, teacher_bias, teacher_cap, uniforms + row * (2 * GROUP), group_top, group_mass,
                    group_scale, vocabulary, GROUP, GROUP_PAD, CHOICE == "sample", LANES, STEPS_PAD,
                    HAS_TEACHER_BIAS, TEACHER_CAP, FAST,
                )  # fmt: skip
                tl.store(indices + row * GROUP + slot, chosen.to(tl.int64), mask=slot < GROUP)
            exists = chosen >= 0
            entry = tl.maximum(chosen, 0)
            if RESCORE:
                # Rounded to 16 bits the logits tie where the models' scores do not.
                ss = _dots(student_hidden + row * student_width, student_weight, student_weight_stride, chosen,
                           student_width, GROUP_PAD, WIDTH)  # fmt: skip
                st = _dots(teacher_hidden + row * teacher_width, teacher_weight, teacher_weight_stride, chosen,
                           teacher_width, GROUP_PAD, WIDTH)  # fmt: skip
            else:
                ss = tl.load(student + entry, mask=exists, other=0.0).to(tl.float32)
                st = tl.load(teacher + entry, mask=exists, other=0.0).to(tl.float32)
            if HAS_STUDENT_BIAS:
                ss += tl.load(student_bias + entry, mask=exists, other=0.0).to(tl.float32)
            if HAS_TEACHER_BIAS:
                st += tl.load(teacher_bias + entry, mask=exists, other=0.0).to(tl.float32)
            bend = tl.full([GROUP_PAD], 1.0, tl.float32)
            if STUDENT_CAP:
                bent = _tanh(ss / student_cap, False)
                bend = 1.0 - bent * bent
                ss = bent * student_cap
            if TEACHER_CAP:
                st = _tanh(st / teacher_cap, False) * teacher_cap
            pair_loss, slope = pair_term(ss, st, exists, tau, SOFT, PER_PAIR)
            slope = slope * bend * pair_factor
            tl.store(losses + row * 2, pair_loss * weight * pair_weight)
            tl.store(pair_gradient + row * GROUP + slot, slope, mask=slot < GROUP)
        else:
            tl.store(losses + row * 2, 0.0)
        if DIVERGENCE and (KIND == "reverse_kl" or KIND == "jsd"):
            # Their gradient holds an expectation over the row, which must be known before any entry is written.
            mass = tl.zeros([LANES], tl.float32)
            value = tl.zeros([LANES], tl.float32)
            for step in range(steps):
                at = step * BLOCK + within
                inside = at < vocabulary
                xs, _ = _read(student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST, "")
                xt, _ = _read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST, "")
                slopes, terms = _slope(xs * scale, xt * scale, log_s, log_t, 0.0, log_beta, log_rest, rest, KIND)
                mass += tl.sum(tl.where(inside, slopes, 0.0), axis=1)
                value += tl.sum(tl.where(inside, terms, 0.0), axis=1)
            mean = tl.sum(mass, axis=0)
            if KIND == "jsd":
                mean = mean / rest
            tl.store(losses + row * 2 + 1, tl.sum(value, axis=0) * weight * divergence_weight)
        tl.store(statistics + row * 3, log_s)
        tl.store(statistics + row * 3 + 1, log_t)
        tl.store(statistics + row * 3 + 2, mean)
        entry = tl.maximum(chosen, 0)
        held = slope
        if PAIRS and GRADIENT:
            # A candidate that a given group names twice gets the sum of both, whichever store comes last.
            same = (chosen[:, None] == chosen[None, :]).to(tl.float32)
            held = tl.sum(same * slope[None, :], axis=1)
        if PAIRS and GRADIENT and DIVERGENCE:
            # The group's entries, soft and pair part together, are rounded once: read before the row is overwritten.
            held_s, arc = _read(
                student, student_bias, entry, chosen >= 0, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST, ""
            )
            held_t, _arc = _read(
                teacher, teacher_bias, entry, chosen >= 0, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST, ""
            )
            soft, _soft = _slope(held_s * scale, held_t * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
            held += soft * (1.0 - arc * arc) * (divergence_factor / temperature)
            tl.debug_barrier()
        if GRADIENT or (DIVERGENCE and (KIND == "soft_target" or KIND == "forward_kl")):
            value = tl.zeros([LANES], tl.float32)
            factor = divergence_factor / temperature
            # Backwards: the end of the row was read last and is still in the cache.
            for back in tl.range(0, steps, num_stages=STAGES):
                at = (steps - 1 - back) * BLOCK + within
                inside = at < vocabulary
                if DIVERGENCE:
                    xs, curve = _read(
                        student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST, HINT2
                    )
                    xt, _ = _read(
                        teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST, HINT2
                    )
                    slopes, terms = _slope(xs * scale, xt * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
                    value += tl.sum(tl.where(inside, terms, 0.0), axis=1)
                    if STUDENT_CAP:
                        slopes = slopes * (1.0 - curve * curve)
                    if GRADIENT:
                        tl.store(student + at, slopes * factor, mask=inside)
                else:
                    tl.store(student + at, tl.zeros([LANES, 8], tl.float32), mask=inside)
            if DIVERGENCE and (KIND == "soft_target" or KIND == "forward_kl"):
                tl.store(losses + row * 2 + 1, tl.sum(value, axis=0) * weight * divergence_weight)
        if not DIVERGENCE:
            tl.store(losses + row * 2 + 1, 0.0)
        if PAIRS and GRADIENT:
            # After every thread's store of the row.
            tl.debug_barrier()
            tl.store(student + entry, held, mask=chosen >= 0)


@triton.jit
@no_type_check
def block_kernel(
    student, teacher, row_stride, student_bias, teacher_bias, student_cap, teacher_cap,
    weights, inverse_rows, statistics, indices, pair_gradient, first, width,
    temperature, divergence_weight, log_beta, log_rest, rest,
    PAIRS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, KIND: tl.constexpr, SCALED: tl.constexpr, HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient on entries first .. first + width of the vocabulary, in place, from the rows' statistics (lean)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    student += row * row_stride
    teacher += row * row_stride
    weight = tl.load(weights + row)
    if weight == 0.0:
        tl.store(student + at, tl.zeros([BLOCK], tl.float32), mask=inside)
    else:
        factor = weight * divergence_weight / temperature
        if SCALED:
            factor *= tl.load(inverse_rows).to(tl.float32)
        scale = LOG2E / temperature
        log_s, log_t = tl.load(statistics + row * 3), tl.load(statistics + row * 3 + 1)
        mean = tl.load(statistics + row * 3 + 2)
        xs, curve = _read(student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST, "")
        xt, _ = _read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST, "")
        slopes, _ = _slope(xs * scale, xt * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
        slopes = slopes * (1.0 - curve * curve) * factor
        if PAIRS:
            slot = tl.arange(0, GROUP_PAD)
            chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1).to(tl.int32)
            added = tl.load(pair_gradient + row * GROUP + slot, mask=slot < GROUP, other=0.0)
            slopes += tl.sum(tl.where((at + first)[:, None] == chosen[None, :], added[None, :], 0.0), axis=1)
        tl.store(student + at, slopes, mask=inside)
