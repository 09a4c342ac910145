"""Absolute matching of probabilities: soft targets and the divergences they differ from by a constant."""

import torch
from jaxtyping import Bool, Float
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
    loss = cross_entropy_of(student_log_probs, teacher_log_probs, exists)
    return loss * temperature**2 if t_squared else loss


def cross_entropy_of(
    student_log_probs: Float[Tensor, "*rows candidates"],
    teacher_log_probs: Float[Tensor, "*rows candidates"],
    exists: Bool[Tensor, "*rows candidates"] | None,
) -> Float[Tensor, "*rows"]:
    """-sum_k p_T(k) log p_S(k) over the candidates that exist (None: all), in nats, of what masked_log_softmax gave."""
    return -_sum(teacher_log_probs.exp() * student_log_probs, exists)


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
    return _sum(teacher_log_probs.exp() * (teacher_log_probs - student_log_probs), exists)


def masked_log_softmax(
    scores: Float[Tensor, "*rows candidates"], exists: Bool[Tensor, "*rows candidates"] | None, temperature: float
) -> Float[Tensor, "*rows candidates"]:
    """log softmax(scores / temperature) over the candidates that exist (None: all); elsewhere it means nothing."""
    scores = wide(scores) if temperature == 1 else wide(scores) / temperature
    if exists is None:
        return scores.log_softmax(-1)
    # The most negative finite number instead of -inf: a row that is masked whole stays finite. What stands at masked
    # entries (NaN, inf) reaches neither the value nor the gradient.
    return torch.where(exists, scores, torch.finfo(scores.dtype).min).log_softmax(-1)


def _sum(terms: Tensor, exists: Tensor | None) -> Tensor:
    # where, not a product: 0 * -inf at a masked candidate is NaN.
    return (terms if exists is None else torch.where(exists, terms, 0.0)).sum(-1)


def _log_probs(
    student_scores: Tensor, teacher_scores: Tensor, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, got {temperature}")
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            f"student scores have shape {tuple(student_scores.shape)}, teacher scores {tuple(teacher_scores.shape)}"
        )
    # Without a mask nothing is looked up: on a GPU every small operation costs its launch.
    exists = None if mask is None else checked_mask(mask, student_scores)
    return (
        masked_log_softmax(teacher_scores.detach(), exists, temperature),
        masked_log_softmax(student_scores, exists, temperature),
        exists,
    )
