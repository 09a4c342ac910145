"""Absolute matching of probabilities: soft targets and the divergences they differ from by a constant."""

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask, wide


def soft_target(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    t_squared: bool = False,
) -> Float[Tensor, "*rows"]:
    """Cross-entropy of the student under the teacher's soft targets, in nats, one value a row.

    L_soft = -sum_k p_T(k) log p_S(k),  p_T = softmax(t / T), p_S = softmax(s / T) over the unmasked candidates;
    times T^2 where t_squared is set (it keeps the gradient's size as T grows).
    A row with no unmasked candidate gives 0. No gradient reaches the teacher.
    Raises UserError for temperature <= 0, ValueError for shapes that differ.
    Source: Hinton et al., arXiv 1503.02531; arXiv 2504.20482 uses it without T^2.
    """
    teacher_log_probs, student_log_probs, exists = _log_probs(student_scores, teacher_scores, mask, temperature)
    # where, not a product: 0 * -inf at a masked candidate is NaN.
    terms = torch.where(exists, teacher_log_probs.exp() * student_log_probs, 0.0)
    loss = -terms.sum(-1)
    return loss * temperature**2 if t_squared else loss


def forward_kl(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """KL(p_T || p_S) in nats, one value a row: the soft-target cross-entropy less the teacher's entropy.

    Raises UserError for temperature <= 0, ValueError for shapes that differ.
    """
    teacher_log_probs, student_log_probs, exists = _log_probs(student_scores, teacher_scores, mask, temperature)
    terms = torch.where(exists, teacher_log_probs.exp() * (teacher_log_probs - student_log_probs), 0.0)
    return terms.sum(-1)


def _log_probs(
    student_scores: Tensor, teacher_scores: Tensor, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, got {temperature}")
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            f"student scores have shape {tuple(student_scores.shape)}, teacher scores {tuple(teacher_scores.shape)}"
        )
    exists = checked_mask(mask, student_scores)
    return (
        _masked_log_softmax(teacher_scores.detach(), exists, temperature),
        _masked_log_softmax(student_scores, exists, temperature),
        exists,
    )


def _masked_log_softmax(scores: Tensor, exists: Tensor, temperature: float) -> Tensor:
    # The most negative finite number instead of -inf: a row that is masked whole stays finite. Masked entries are
    # replaced before any arithmetic, so whatever stands there (NaN, inf) reaches neither the value nor the gradient.
    floor = torch.finfo(wide(scores).dtype).min
    return torch.where(exists, wide(scores) / temperature, floor).log_softmax(-1)
