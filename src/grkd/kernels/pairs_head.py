"""The pairs-only head: the group relative loss of a known group, with no logit outside the group."""

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import wide
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._head_call import Call, gathered, group_indices, row_weighting
from grkd.kernels._inputs import HeadPlan
from grkd.kernels._options import HeadOptions, Implementation, PairOptions
from grkd.losses import HARD, Normalize, PairForm


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
        divergence_weight=0.0,
        group="given",
        group_size=group.shape[-1],
        student_softcap=student_softcap,
        teacher_softcap=teacher_softcap,
    )
    weights, inverse_rows = row_weighting(row_mask, row_weights, rows, row_shape, hidden)
    bias, teacher_bias = (None if each is None else gathered(each) for each in (student_bias, teacher_bias))
    # The kernels take a teacher in any case; beside known scores nothing of it is read.
    teacher = hidden, weight, teacher_bias
    if teacher_hidden is not None and teacher_weight is not None:
        teacher = teacher_hidden.reshape(-1, teacher_hidden.shape[-1]), gathered(teacher_weight), teacher_bias
    scores = None if teacher_scores is None else wide(teacher_scores.detach().reshape(indices.shape))
    size, gradients = len(hidden), torch.is_grad_enabled()
    plan = HeadPlan(chunk=size, lean=False, accumulate="float32", gradients=gradients, weight_dtype=weight.dtype)
    call = Call(options=options, plan=plan, masked=True, implementation=implementation, vocabulary=weight.shape[0])
    loss, *_ = call((hidden, weight, bias), teacher, (weights, inverse_rows, scores), indices)
    return loss
