"""The distillation head in plain torch: chunks of rows, the gradient taken in the forward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from grkd import groups
from grkd.groups import wide
from grkd.kernels._inputs import HeadInputs, HeadPlan, HeadResult, chunks
from grkd.kernels._options import HeadOptions
from grkd.kernels._products import add_product, sum_dtype
from grkd.kernels.all_pairs import all_pairs
from grkd.losses import cross_entropy_of, generalized_jsd_of, group_relative, masked_log_softmax

_GATHERED = 1 << 24  # entries of one [rows, group, width] gather


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), Gemma's final logit softcap; unchanged for None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def run(inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """Loss and gradients with [chunk, vocabulary] logits at a time; the losses are those of grkd.losses."""
    hidden, weight = inputs.student_hidden, inputs.student_weight
    totals = hidden.new_zeros(2, dtype=wide(hidden[:0]).dtype)
    hidden_sum, weight_sum, bias_sum = _sums(inputs, plan)
    chosen = []
    for number, part in enumerate(chunks(inputs.rows, plan.chunk)):
        logits = linear(hidden[part], weight, inputs.student_bias)
        values, gradient, indices = _rows(inputs, options, part, logits, plan.gradients)
        totals = totals + values
        chosen.append(indices)
        if gradient is None or hidden_sum is None:
            continue
        hidden_sum[part] = gradient @ weight
        if weight_sum is not None:
            add_product(weight_sum, gradient.mT, hidden[part], first=number == 0)
        if bias_sum is not None:
            bias_sum += gradient.sum(0, dtype=bias_sum.dtype)
    found = [indices for indices in chosen if indices is not None]
    return _result(inputs, plan, totals, torch.cat(found) if found else None, (hidden_sum, weight_sum, bias_sum))


def pairs_alone(inputs: HeadInputs, options: HeadOptions, plan: HeadPlan, known: Tensor | None) -> HeadResult:
    """The pair term of given groups with no logit outside them. known: the teacher's scores of the groups."""
    hidden, weight, indices = inputs.student_hidden, inputs.student_weight, inputs.indices
    assert indices is not None
    totals = hidden.new_zeros(2, dtype=wide(hidden[:0]).dtype)
    hidden_sum, weight_sum, bias_sum = _sums(inputs, plan)
    pairs = options.pairs
    for part in chunks(inputs.rows, max(1, _GATHERED // max(1, indices.shape[1] * hidden.shape[1]))):
        found, exists, weights = indices[part].clamp_min(0), indices[part] >= 0, inputs.weights[part]
        leaf = group_scores(hidden[part], weight, inputs.student_bias, found).detach()
        if known is None:
            raw = group_scores(inputs.teacher_hidden[part], inputs.teacher_weight, inputs.teacher_bias, found)
            teacher = softcap(raw, options.teacher_softcap)
        else:
            teacher = known[part].to(leaf.dtype)
        with torch.set_grad_enabled(plan.gradients):
            student = softcap(leaf.requires_grad_(plan.gradients), options.student_softcap)
            rows = group_relative(
                student, teacher, mask=exists, tau=pairs.tau, pair_target=pairs.form, normalize=pairs.normalize
            )
            total = torch.where(weights != 0, weights * rows, 0.0).sum() * options.pair_weight
        totals[0] += total.detach()
        if hidden_sum is None:
            continue
        slope = torch.where(exists, torch.autograd.grad(total, leaf)[0], 0.0)
        hidden_sum[part] = torch.einsum("rg,rgw->rw", slope, weight[found].to(slope.dtype)).to(hidden.dtype)
        if weight_sum is not None:
            products = slope.unsqueeze(-1) * hidden[part].to(slope.dtype).unsqueeze(1)
            weight_sum.index_add_(0, found.flatten(), products.flatten(0, 1).to(weight_sum.dtype))
        if bias_sum is not None:
            bias_sum.index_add_(0, found.flatten(), slope.flatten())
    return _result(inputs, plan, totals, indices, (hidden_sum, weight_sum, bias_sum))


Sums = tuple[Tensor | None, Tensor | None, Tensor | None]  # gradients of hidden states, weight and bias, if wanted


def _sums(inputs: HeadInputs, plan: HeadPlan) -> Sums:
    hidden, weight, bias = inputs.student_hidden, inputs.student_weight, inputs.student_bias
    if not plan.gradients:
        return None, None, None
    if not plan.weight_gradient:
        return torch.zeros_like(hidden), None, None
    of_weight = torch.zeros_like(weight, dtype=sum_dtype(plan.weight_dtype, accumulate=plan.accumulate))
    of_bias = None if bias is None else torch.zeros_like(bias, dtype=wide(hidden[:0]).dtype)
    return torch.zeros_like(hidden), of_weight, of_bias


def _result(inputs: HeadInputs, plan: HeadPlan, totals: Tensor, indices: Tensor | None, sums: Sums) -> HeadResult:
    """The divisor comes last: 1 / rows inside a float16 gradient would underflow."""
    pair, divergence = (totals * inputs.inverse_rows).unbind()
    dtypes = (inputs.student_hidden.dtype, plan.weight_dtype, inputs.student_hidden.dtype)
    found = [
        None if each is None else (each * inputs.inverse_rows).to(dtype)
        for each, dtype in zip(sums, dtypes, strict=True)
    ]
    return HeadResult(pair + divergence, pair, divergence, indices, *found)


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
            rows = _divergence_rows(options, student, teacher)
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


def _divergence_rows(options: HeadOptions, student: Tensor, teacher: Tensor) -> Tensor:
    """The head's divergence per row in nats, of softmaxes at the temperature: the reference of the row kernel."""
    student, teacher = (masked_log_softmax(scores, None, options.temperature) for scores in (student, teacher.detach()))
    if options.divergence == "soft_target":
        return cross_entropy_of(student, teacher, None)
    beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(options.divergence, options.beta)
    return generalized_jsd_of(student, teacher, None, beta=beta)


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
