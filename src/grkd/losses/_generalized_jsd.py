"""The generalised Jensen-Shannon divergence, between forward and reverse KL."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask
from grkd.losses._soft_target import masked_log_softmax


def generalized_jsd(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """Generalised Jensen-Shannon divergence of two softmaxes at `temperature`, in nats, one value per row.

    D = beta KL(p_T || M) + (1 - beta) KL(p_S || M),  M = beta p_T + (1 - beta) p_S
    beta 0 is the forward KL(p_T || p_S) and beta 1 the reverse KL(p_S || p_T), taken by name: D itself goes to 0 there,
    and D / beta and D / (1 - beta) go to the two.
    A row with no unmasked candidate gives 0. No gradient reaches the teacher.
    Raises UserError for options out of range, ValueError for shapes that differ.
    Source: Agarwal et al., arXiv 2306.13649, Eq. 1.
    """
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(
            f"student scores have shape {tuple(student_scores.shape)}, teacher scores {tuple(teacher_scores.shape)}"
        )
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, got {temperature}")
    if not 0 <= beta <= 1:
        raise UserError(f"beta must be in [0, 1], got {beta}")
    exists = checked_mask(mask, student_scores)
    student, teacher = (
        masked_log_softmax(scores, exists, temperature) for scores in (student_scores, teacher_scores.detach())
    )
    return generalized_jsd_of(student, teacher, exists, beta=beta)


def generalized_jsd_of(
    student_log_probs: Float[Tensor, "*rows candidates"],
    teacher_log_probs: Float[Tensor, "*rows candidates"],
    exists: Tensor | None,
    *,
    beta: float,
) -> Float[Tensor, "*rows"]:
    """generalized_jsd of log-probabilities over the candidates that exist (None: all), as masked_log_softmax gives."""
    student, teacher = student_log_probs, teacher_log_probs
    if beta == 0:
        terms = teacher.exp() * (teacher - student)
    elif beta == 1:
        terms = student.exp() * (student - teacher)
    else:
        mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        terms = beta * teacher.exp() * (teacher - mixture) + (1 - beta) * student.exp() * (student - mixture)
    return (terms if exists is None else torch.where(exists, terms, 0.0)).sum(-1)
