"""The pairs-only head: the group relative loss of a known group, with no logit outside the group."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grkd.errors import UserError
from grkd.groups import wide
from grkd.kernels._available import use_triton
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._head_torch import group_scores, softcap
from grkd.kernels._inputs import HeadInputs, HeadPlan, chunks
from grkd.kernels._options import PAIR_KERNELS, HeadOptions, Implementation, PairOptions, implementation_of
from grkd.kernels._scaling import scale_by
from grkd.kernels.head import gathered, group_indices, row_weighting
from grkd.losses import HARD, Normalize, PairForm, group_relative

# Entries of one [rows, group, width] gather in the torch form.
_GATHERED = 1 << 24


@outside_graphs
def pairs_head(
    student_hidden: Float[Tensor, "*rows student_width"],
    student_weight: Tensor,
    group: Tensor,
    *,
    teacher_scores: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    pair_scale: float = 1.0,
    tau: float = 1.0,
    pair_target: PairForm | str = HARD,
    normalize: Normalize = "pairs",
    row_mask: Tensor | None = None,
    row_weights: Tensor | None = None,
    rows: Tensor | float | int | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, ""]:
    """GRKD at alpha = 1 for a known group, in nats: a scalar with gradients to student hidden, weight and bias.

    L = (pair_scale / rows) sum_r w_r L_GR(s_r, t_r),  s_rg = cap(h_r . W[group_rg] + b[group_rg]) in float32
    group: integers [*rows, group], -1 if a row has fewer. The teacher's scores of the group are given
    (teacher_scores, [*rows, group], a cache's) or computed in the same way from teacher_hidden and teacher_weight.
    The other options are distillation_head's. Weight rows that no group names get gradient 0.
    Raises UserError if the teacher's side is missing or given twice, ValueError for shapes that do not fit.
    """
    if (teacher_scores is None) == (teacher_hidden is None or teacher_weight is None):
        raise UserError("pairs_head needs teacher_scores, or teacher_hidden and teacher_weight (not both)")
    row_shape = student_hidden.shape[:-1]
    hidden = student_hidden.reshape(-1, student_hidden.shape[-1])
    weight = gathered(student_weight)
    indices = group_indices(group, row_shape, weight.shape[0])
    if teacher_scores is not None and teacher_scores.shape != group.shape:
        raise ValueError(f"teacher_scores have shape {tuple(teacher_scores.shape)}, the group {tuple(group.shape)}")
    options = HeadOptions(
        pairs=PairOptions.of(tau=tau, pair_target=pair_target, normalize=normalize),
        pair_weight=pair_scale,
        divergence="soft_target",
        divergence_weight=0.0,
        beta=0.5,
        temperature=1.0,
        t_squared=False,
        group="given",
        group_size=group.shape[-1],
        group_temperature=1.0,
        student_softcap=student_softcap,
        teacher_softcap=teacher_softcap,
    )
    weights, inverse_rows = row_weighting(row_mask, row_weights, rows, row_shape, hidden)
    if teacher_hidden is None or teacher_weight is None:
        # The kernels take a teacher in any case; nothing of this one is read.
        teacher = (hidden.detach(), weight.detach())
    else:
        teacher = (
            teacher_hidden.detach().reshape(-1, teacher_hidden.shape[-1]).to(hidden.dtype),
            gathered(teacher_weight).detach().to(hidden.dtype),
        )
    scores = None if teacher_scores is None else wide(teacher_scores.detach().reshape(indices.shape))
    bias = None if student_bias is None else gathered(student_bias)
    call = _Call(options, implementation, torch.is_grad_enabled())
    other_bias = None if teacher_bias is None else gathered(teacher_bias).detach().to(hidden.dtype)
    loss: Tensor = _PairsHead.apply(
        hidden, weight, bias, call, *teacher, other_bias, weights, inverse_rows, indices, scores
    )
    return loss


class _Call:
    """What is not a tensor in one call."""

    def __init__(self, options: HeadOptions, implementation: Implementation, gradients: bool) -> None:
        self.options, self.implementation, self.gradients = options, implementation, gradients

    def run(self, tensors: tuple[Tensor | None, ...], wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """Loss and the gradients of hidden, weight and bias (None if not wanted)."""
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, weights, inverse, indices, scores = tensors
        assert hidden is not None
        assert weight is not None
        assert weights is not None
        assert indices is not None
        counted = (weights != 0).unsqueeze(-1)
        inputs = HeadInputs(
            student_hidden=torch.where(counted, hidden, 0.0).contiguous(),
            student_weight=weight.detach().to(hidden.dtype),
            teacher_hidden=teacher_hidden,  # type: ignore[arg-type]
            teacher_weight=teacher_weight,  # type: ignore[arg-type]
            student_bias=None if bias is None else bias.to(hidden.dtype),
            teacher_bias=teacher_bias,
            weights=weights,
            inverse_rows=inverse,  # type: ignore[arg-type]
            indices=indices,
            generator=None,
        )
        implementation = implementation_of(self.options.pairs.form, PAIR_KERNELS, self.implementation)
        if inputs.rows and use_triton(hidden, implementation) and indices.shape[1] <= 64:
            return _on_device(inputs, self.options, scores, weight.dtype, wanted)
        return _in_torch(inputs, self.options, scores, weight.dtype, wanted)


class _PairsHead(torch.autograd.Function):
    """As the full head: gradients with the loss, handed out once, computed again by a second backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call, *rest: Tensor | None
    ) -> Tensor:
        ctx.call = call
        ctx.wanted = tuple(call.gradients and needed for needed in ctx.needs_input_grad[:3])
        loss, *gradients = call.run((hidden, weight, bias, *rest), ctx.wanted)
        ctx.save_for_backward(hidden, weight, bias, *rest)
        ctx.gradients = gradients
        assert loss is not None
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, *gradients = ctx.call.run(saved, ctx.wanted)
        for gradient in gradients:
            if gradient is not None:
                scale_by(gradient, upstream)
        return (*gradients, *([None] * (len(ctx.needs_input_grad) - 3)))


def _on_device(
    inputs: HeadInputs, options: HeadOptions, scores: Tensor | None, dtype: torch.dtype, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    from grkd.kernels import _head_triton

    plan = HeadPlan(
        chunk=inputs.rows,
        lean=False,
        accumulate="float32",
        gradients=any(wanted),
        weight_gradient=wanted[1] or wanted[2],
        weight_dtype=dtype,
    )
    result = _head_triton.run(inputs, options, plan, scores)
    gradients = (result.hidden_gradient, result.weight_gradient, result.bias_gradient)
    return (result.loss, *(gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True)))


def _in_torch(
    inputs: HeadInputs, options: HeadOptions, scores: Tensor | None, dtype: torch.dtype, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    assert inputs.indices is not None
    size = max(1, _GATHERED // max(1, inputs.indices.shape[1] * inputs.student_hidden.shape[1]))
    total = inputs.weights.new_zeros(())
    hidden_gradient = torch.zeros_like(inputs.student_hidden) if wanted[0] else None
    weight_sum = torch.zeros_like(inputs.student_weight, dtype=total.dtype) if wanted[1] else None
    bias_sum = None
    if wanted[2] and inputs.student_bias is not None:
        bias_sum = torch.zeros_like(inputs.student_bias, dtype=total.dtype)
    for part in chunks(inputs.rows, size):
        value, slope = _slopes(inputs, options, scores, part, gradient=any(wanted))
        total = total + value
        if slope is None:
            continue
        indices = inputs.indices[part].clamp_min(0)
        states = inputs.student_hidden[part].to(slope.dtype)
        if hidden_gradient is not None:
            rows = inputs.student_weight[indices].to(slope.dtype)
            hidden_gradient[part] = torch.einsum("rg,rgw->rw", slope, rows).to(hidden_gradient.dtype)
        if weight_sum is not None:
            products = (slope.unsqueeze(-1) * states.unsqueeze(1)).reshape(-1, states.shape[1])
            weight_sum.index_add_(0, indices.reshape(-1), products)
        if bias_sum is not None:
            bias_sum.index_add_(0, indices.reshape(-1), slope.reshape(-1))
    weight_gradient = None if weight_sum is None else weight_sum.to(dtype)
    bias_gradient = None if bias_sum is None or inputs.student_bias is None else bias_sum.to(inputs.student_bias.dtype)
    return total * inputs.inverse_rows, hidden_gradient, weight_gradient, bias_gradient


def _slopes(
    inputs: HeadInputs, options: HeadOptions, given: Tensor | None, part: slice, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Weighted sum of the chunk's losses and its gradient by the group's raw scores, 1 / rows included."""
    assert inputs.indices is not None
    found, exists = inputs.indices[part].clamp_min(0), inputs.indices[part] >= 0
    weights = inputs.weights[part]
    if given is not None:
        teacher = given[part]
    else:
        raw = group_scores(inputs.teacher_hidden[part], inputs.teacher_weight, inputs.teacher_bias, found)
        teacher = softcap(raw, options.teacher_softcap)
    leaf = group_scores(inputs.student_hidden[part], inputs.student_weight, inputs.student_bias, found).detach()
    with torch.set_grad_enabled(gradient):
        leaf.requires_grad_(gradient)
        pairs = options.pairs
        rows = group_relative(
            softcap(leaf, options.student_softcap),
            teacher.to(leaf.dtype),
            mask=exists,
            tau=pairs.tau,
            pair_target=pairs.form,
            normalize=pairs.normalize,
        )
        total = torch.where(weights != 0, weights * rows, 0.0).sum() * options.pair_weight
        if not gradient:
            return total.detach(), None
        (slope,) = torch.autograd.grad(total, leaf)
    return total.detach(), torch.where(exists, slope, 0.0) * inputs.inverse_rows
