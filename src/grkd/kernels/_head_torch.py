"""The distillation head in plain torch: chunks of rows, the gradient taken in the forward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from grkd import groups
from grkd.groups import wide
from grkd.kernels._divergence import divergence_rows
from grkd.kernels._inputs import HeadInputs, HeadPlan, HeadResult, chunks
from grkd.kernels._options import HeadOptions
from grkd.kernels._products import add_product, sum_dtype
from grkd.kernels.all_pairs import all_pairs
from grkd.losses import group_relative


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), Gemma's final logit softcap; unchanged for None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def run(inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """Loss and gradients with [chunk, vocabulary] logits at a time; the losses are those of grkd.losses."""
    hidden, weight = inputs.student_hidden, inputs.student_weight
    totals = hidden.new_zeros(2, dtype=wide(hidden[:0]).dtype)
    result = HeadResult(loss=totals, pair=totals, divergence=totals, indices=None)
    weight_sum = bias_sum = None
    if plan.gradients:
        result.hidden_gradient = torch.zeros_like(hidden)
    if plan.gradients and plan.weight_gradient:
        weight_sum = torch.zeros_like(weight, dtype=sum_dtype(plan.weight_dtype, accumulate=plan.accumulate))
        if inputs.student_bias is not None:
            bias_sum = torch.zeros_like(inputs.student_bias, dtype=totals.dtype)
    chosen = []
    for number, part in enumerate(chunks(inputs.rows, plan.chunk)):
        logits = linear(hidden[part], weight, inputs.student_bias)
        values, gradient, indices = _rows(inputs, options, part, logits, plan.gradients)
        totals = totals + values
        chosen.append(indices)
        if gradient is None or result.hidden_gradient is None:
            continue
        result.hidden_gradient[part] = gradient @ weight
        if weight_sum is not None:
            add_product(weight_sum, gradient.mT, hidden[part], first=number == 0)
        if bias_sum is not None:
            bias_sum += gradient.sum(0, dtype=bias_sum.dtype)
    result.pair, result.divergence = (totals * inputs.inverse_rows).unbind()
    result.loss = result.pair + result.divergence
    found = [indices for indices in chosen if indices is not None]
    result.indices = torch.cat(found) if found else None
    _finish(result, inputs, plan, weight_sum, bias_sum)
    return result


def _finish(
    result: HeadResult, inputs: HeadInputs, plan: HeadPlan, weight_sum: Tensor | None, bias_sum: Tensor | None
) -> None:
    # The divisor comes last: 1 / rows inside a float16 gradient would underflow.
    if result.hidden_gradient is not None:
        result.hidden_gradient = (result.hidden_gradient * inputs.inverse_rows).to(inputs.student_hidden.dtype)
    if weight_sum is not None:
        result.weight_gradient = (weight_sum * inputs.inverse_rows).to(plan.weight_dtype)
    if bias_sum is not None and inputs.student_bias is not None:
        result.bias_gradient = (bias_sum * inputs.inverse_rows).to(inputs.student_bias.dtype)


def _rows(
    inputs: HeadInputs, options: HeadOptions, part: slice, logits: Tensor, gradients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The chunk's (pair, divergence) sums, the gradient of its logits and its group."""
    weights = inputs.weights[part]
    with torch.no_grad():
        # Rows that do not count may hold anything: a NaN of theirs would survive the product with a weight of 0.
        teacher_hidden = torch.where((weights != 0).unsqueeze(-1), inputs.teacher_hidden[part], 0.0)
        teacher_logits = linear(teacher_hidden, inputs.teacher_weight, inputs.teacher_bias)
        teacher = softcap(wide(teacher_logits), options.teacher_softcap)
        group = _group(inputs, options, part, teacher)
    with torch.set_grad_enabled(gradients):
        logits = logits.detach().requires_grad_(gradients)
        student = softcap(wide(logits), options.student_softcap)
        leaves = [logits]
        pair = wide(logits).new_zeros(())
        if options.pair_weight:
            rows, leaf = _pair_rows(inputs, options, part, student, teacher, group, gradients)
            leaves += [] if leaf is None else [leaf]
            pair = torch.where(weights != 0, weights * rows, 0.0).sum() * options.pair_weight
        divergence = torch.zeros_like(pair)
        if options.divergence_weight:
            rows = divergence_rows(
                student,
                teacher,
                divergence=options.divergence,
                temperature=options.temperature,
                beta=options.beta,
            )
            divergence = torch.where(weights != 0, weights * rows, 0.0).sum() * options.divergence_scale
        values = torch.stack([pair.detach(), divergence.detach()])
        indices = None if group is None else group.indices.masked_fill(~group.mask, -1)
        if not gradients:
            return values, None, indices
        # A weight may be 0 here and above 0 at another time of training: then nothing depends on some of the leaves.
        total = pair + divergence
        found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else (None,)
    gradient = torch.zeros_like(logits) if found[0] is None else found[0]
    if len(found) > 1 and found[1] is not None and group is not None:
        dense = torch.zeros_like(gradient, dtype=found[1].dtype)
        dense.scatter_add_(-1, group.indices, found[1].masked_fill(~group.mask, 0.0))
        gradient = (gradient.to(dense.dtype) + dense).to(gradient.dtype)
    return values, gradient, indices


def _group(inputs: HeadInputs, options: HeadOptions, part: slice, teacher: Tensor) -> groups.Group | None:
    if not options.pair_weight:
        return None
    if inputs.indices is not None:
        indices = inputs.indices[part]
        return groups.Group(indices.clamp_min(0), indices >= 0)
    name = options.named_group(inputs.vocabulary)
    return groups.choose(
        teacher,
        name,  # type: ignore[arg-type]
        size=options.group_size,
        temperature=options.group_temperature,
        seeds=None if inputs.seeds is None else inputs.seeds[part],
        generator=inputs.generator,
    )


def _pair_rows(
    inputs: HeadInputs,
    options: HeadOptions,
    part: slice,
    student: Tensor,
    teacher: Tensor,
    group: groups.Group | None,
    gradients: bool,
) -> tuple[Tensor, Tensor | None]:
    """The pair term per row; a leaf of its own where the group's scores were computed again in float32."""
    pairs = options.pairs
    rule: dict[str, Any] = {"tau": pairs.tau, "pair_target": pairs.form, "normalize": pairs.normalize}
    if group is None:
        return all_pairs(student, teacher, **rule), None
    leaf = None
    if inputs.student_hidden.element_size() < 4:
        # Logits rounded to 16 bits tie; the group's few scores are worth a second, float32, look.
        leaf = group_scores(inputs.student_hidden[part], inputs.student_weight, inputs.student_bias, group.indices)
        leaf = leaf.detach().requires_grad_(gradients)
        student_scores = softcap(leaf, options.student_softcap)
        raw = group_scores(inputs.teacher_hidden[part], inputs.teacher_weight, inputs.teacher_bias, group.indices)
        teacher_scores = softcap(raw, options.teacher_softcap)
    else:
        student_scores, teacher_scores = student.gather(-1, group.indices), teacher.gather(-1, group.indices)
    rows = group_relative(student_scores, teacher_scores, mask=group.mask, **rule)
    return rows, leaf


def group_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor) -> Tensor:
    """Logits of each row's own candidates, [rows, group], in at least float32, with no other logit computed."""
    gathered = wide(weight[indices])
    scores = torch.einsum("rw,rgw->rg", wide(hidden), gathered)
    return scores if bias is None else scores + wide(bias)[indices]
