"""The head's row kernel: one program reads a student and a teacher row of logits and writes the gradient in place.

A row is read in blocks of LANES * 8 entries; lane l holds 8 neighbouring entries of each block. Every lane keeps its
own running maximum and sum of exponentials, so that nothing crosses threads until the row's end. Those of the teacher
are kept where a group is to be chosen: see _group_triton.py. Scores are in units of log 2: z = x log2(e) / T.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Stands for -inf where a difference of two of them must not be NaN; below it, entries that do not exist or are taken.
FLOOR = tl.constexpr(-1.0e30)
TAKEN = tl.constexpr(-2.0e30)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check
def tanh(x, FAST: tl.constexpr):
    if FAST:
        # One instruction; its relative error of 2^-11 is a quarter of the rounding of the bf16 logit it is applied to.
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E)))
    return y


@triton.jit
@no_type_check
def read(
    logits, bias, at, inside, cap,
    HAS_BIAS: tl.constexpr, CAP: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Capped scores in float32 and tanh of the cap (0 without one), whose square the gradient needs."""
    x = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    curve = tl.where(x < 0.0, 0.0, 0.0)  # in x's shape; x * 0 would be NaN where x is -inf
    if CAP:
        curve = tanh(x * (1.0 / cap), FAST)
        x = curve * cap
    return x, curve


@triton.jit
@no_type_check
def no_lower(z):
    """z, or FLOOR if it is lower. NaN stays, which tl.maximum would lose."""
    return tl.where(z < FLOOR, FLOOR, z)


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
def slope_of(zs, zt, log_s, log_t, mean, log_beta, log_rest, rest, KIND: tl.constexpr):
    """Gradient of the divergence by z_S / T (natural units), and the terms of its value; logs in units of log 2."""
    ls, lt = zs - log_s, zt - log_t
    ps = tl.exp2(ls)
    if KIND != "reverse_kl":
        lt = no_lower(lt)  # a probability of 0 times -inf would be NaN
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
    weights, inverse_rows, lanes, statistics, losses,
    vocabulary, temperature, group_temperature, divergence_weight, log_beta, log_rest, rest,
    KIND: tl.constexpr, DIVERGENCE: tl.constexpr, LANES_KEPT: tl.constexpr, SAME_T: tl.constexpr,
    GRADIENT: tl.constexpr, SCALED: tl.constexpr, HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, FAST: tl.constexpr,
    LANES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One row: statistics, then the divergence's gradient by the student's logits in place of them.

    lanes [rows, 2, LANES]: the teacher's lane maxima and masses at the group's temperature (LANES_KEPT);
    statistics [rows, 3]: both log sums and the mean that reverse KL and JSD subtract; losses[row, 1]: the divergence.
    """
    row = tl.program_id(0).to(tl.int64)
    student += row * row_stride
    teacher += row * row_stride
    weight = tl.load(weights + row)
    BLOCK: tl.constexpr = LANES * 8
    lane = tl.arange(0, LANES)
    within = lane[:, None] * 8 + tl.arange(0, 8)[None, :]
    steps = tl.cdiv(vocabulary, BLOCK)
    # A row that does not count takes no steps of pass 1: its gradient is 0 whatever its logits hold.
    counted = tl.where(weight == 0.0, 0, steps)
    scale = LOG2E / temperature
    group_scale = LOG2E / group_temperature
    student_top = tl.full([LANES], FLOOR, tl.float32)
    teacher_top = tl.full([LANES], TAKEN, tl.float32)
    group_top = tl.full([LANES], TAKEN, tl.float32)
    student_mass = tl.zeros([LANES], tl.float32)
    teacher_mass = tl.zeros([LANES], tl.float32)
    group_mass = tl.zeros([LANES], tl.float32)
    for step in tl.range(0, counted, num_stages=STAGES):
        at = step * BLOCK + within
        inside = at < vocabulary
        xt, _ = read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST)
        if DIVERGENCE:
            xs, _ = read(student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST)
            student_top, student_mass = _merge(student_top, student_mass, tl.where(inside, xs * scale, FLOOR))
            zt = tl.where(inside, no_lower(xt * scale), TAKEN)
            teacher_top, teacher_mass = _merge(teacher_top, teacher_mass, zt)
        if LANES_KEPT and not (SAME_T and DIVERGENCE):
            zt = tl.where(inside, no_lower(xt * group_scale), TAKEN)
            group_top, group_mass = _merge(group_top, group_mass, zt)
    if LANES_KEPT:
        if SAME_T and DIVERGENCE:
            group_top, group_mass = teacher_top, teacher_mass
        tl.store(lanes + row * (2 * LANES) + lane, group_top)
        tl.store(lanes + row * (2 * LANES) + LANES + lane, group_mass)
    if DIVERGENCE:
        if weight == 0.0:
            if GRADIENT:
                zero = tl.zeros([LANES, 8], tl.float32)
                for step in range(steps):
                    here = step * BLOCK + within
                    tl.store(student + here, zero, mask=here < vocabulary)
            tl.store(losses + row * 2 + 1, 0.0)
        else:
            log_s, log_t, mean = _log_sum(student_top, student_mass), _log_sum(teacher_top, teacher_mass), 0.0
            log_t = tl.where(log_t < 0.5 * FLOOR, float("nan"), log_t)  # a teacher that rules out everything
            value = tl.zeros([LANES], tl.float32)
            if KIND == "reverse_kl" or KIND == "jsd":
                # Their gradient holds an expectation over the row, which must be known before any entry is written.
                mass = tl.zeros([LANES], tl.float32)
                for step in tl.range(0, steps, num_stages=STAGES):
                    at = step * BLOCK + within
                    inside = at < vocabulary
                    xs, _ = read(student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST)
                    xt, _ = read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST)
                    slopes, terms = slope_of(xs * scale, xt * scale, log_s, log_t, 0.0, log_beta, log_rest, rest, KIND)
                    mass += tl.sum(tl.where(inside, slopes, 0.0), axis=1)
                    value += tl.sum(tl.where(inside, terms, 0.0), axis=1)
                mean = tl.sum(mass, axis=0)
                if KIND == "jsd":
                    mean = mean / rest
            if GRADIENT or KIND == "soft_target" or KIND == "forward_kl":
                factor = weight * divergence_weight / temperature
                if SCALED:
                    factor *= tl.load(inverse_rows).to(tl.float32)
                # Backwards: the end of the row was read last and is still in the cache.
                for back in tl.range(0, steps, num_stages=STAGES):
                    at = (steps - 1 - back) * BLOCK + within
                    inside = at < vocabulary
                    xs, curve = read(
                        student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST
                    )
                    xt, _ = read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST)
                    slopes, terms = slope_of(xs * scale, xt * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
                    if KIND == "soft_target" or KIND == "forward_kl":
                        value += tl.sum(tl.where(inside, terms, 0.0), axis=1)
                    if STUDENT_CAP:
                        slopes = slopes * (1.0 - curve * curve)
                    if GRADIENT:
                        tl.store(student + at, slopes * factor, mask=inside)
            tl.store(losses + row * 2 + 1, tl.sum(value, axis=0) * weight * divergence_weight)
            tl.store(statistics + row * 3, log_s)
            tl.store(statistics + row * 3 + 1, log_t)
            tl.store(statistics + row * 3 + 2, mean)
    else:
        tl.store(losses + row * 2 + 1, 0.0)


@triton.jit
@no_type_check
def block_kernel(
    student, teacher, row_stride, student_bias, teacher_bias, student_cap, teacher_cap,
    weights, inverse_rows, statistics, indices, pair_gradient, first, width,
    temperature, divergence_weight, log_beta, log_rest, rest,
    PAIRS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, KIND: tl.constexpr,
    SCALED: tl.constexpr, HAS_STUDENT_BIAS: tl.constexpr, HAS_TEACHER_BIAS: tl.constexpr,
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
        xs, curve = read(student, student_bias, at, inside, student_cap, HAS_STUDENT_BIAS, STUDENT_CAP, FAST)
        xt, _ = read(teacher, teacher_bias, at, inside, teacher_cap, HAS_TEACHER_BIAS, TEACHER_CAP, FAST)
        slopes, _ = slope_of(xs * scale, xt * scale, log_s, log_t, mean, log_beta, log_rest, rest, KIND)
        slopes = slopes * (1.0 - curve * curve) * factor
        if PAIRS:
            slot = tl.arange(0, GROUP_PAD)
            chosen = tl.load(indices + row * GROUP + slot, mask=slot < GROUP, other=-1).to(tl.int32)
            added = tl.load(pair_gradient + row * GROUP + slot, mask=slot < GROUP, other=0.0)
            slopes += tl.sum(tl.where((at + first)[:, None] == chosen[None, :], added[None, :], 0.0), axis=1)
        tl.store(student + at, slopes, mask=inside)
