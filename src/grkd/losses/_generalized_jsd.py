"""The generalised Jensen-Shannon divergence, between forward and reverse KL."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask
from grkd.losses._soft_target import finite, masked_log_softmax
from grkd.losses.checks import check_scale, check_shapes


def forward_kl(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """KL(p_T || p_S) in nats, one value per row: the soft-target cross-entropy less the teacher's entropy.

        KL = sum_k p_T(k) (log p_T(k) - log p_S(k)),  p = softmax(scores / T) over the unmasked candidates

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    temperature : float
        Divides both sides' scores before the softmax; above 0.

    Returns
    -------
    Tensor [*rows]
        In nats.

    Raises
    ------
    UserError
        For a temperature that is not above 0.
    ValueError
        For shapes that differ; a mask never broadcasts.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import forward_kl
    >>> forward_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([0.4621])
    """
    return generalized_jsd(student_scores, teacher_scores, mask=mask, beta=0.0, temperature=temperature)


def generalized_jsd(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """Generalised Jensen-Shannon divergence of two softmaxes, in nats, one value per row.

        D = beta KL(p_T || M) + (1 - beta) KL(p_S || M),  M = beta p_T + (1 - beta) p_S

    beta 0 is the forward KL(p_T || p_S) and beta 1 the reverse KL(p_S || p_T), by name: D itself goes to 0 there, and
    D / beta and D / (1 - beta) go to the two. A row without an unmasked candidate gives 0.

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    beta : float
        Between forward KL (0) and reverse KL (1).
    temperature : float
        Divides both sides' scores before the softmax; above 0.

    Returns
    -------
    Tensor [*rows]
        In nats.

    Raises
    ------
    UserError
        For an option out of range.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Agarwal et al., arXiv 2306.13649, Eq. 1.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import generalized_jsd
    >>> generalized_jsd(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]), beta=0.5)  # log 2
    tensor([0.6931])
    """
    check_shapes(student_scores, teacher_scores)
    check_scale("temperature", temperature)
    if not 0 <= beta <= 1:
        raise UserError(f"beta must be in [0, 1], got {beta}")
    exists = None if mask is None else checked_mask(mask, student_scores)
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
    """`generalized_jsd` of log-probabilities that exist already, one value per row.

    Parameters
    ----------
    student_log_probs, teacher_log_probs : Tensor [*rows, candidates]
        As `masked_log_softmax` gives them, in nats.
    exists : bool Tensor [*rows, candidates] or None
        True where a candidate exists; None: everywhere.
    beta : float
        Between forward KL (0) and reverse KL (1).

    Returns
    -------
    Tensor [*rows]
        In nats.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import generalized_jsd_of, masked_log_softmax
    >>> log_probs = masked_log_softmax(torch.tensor([[2.0, 1.0]]), None, 1.0)
    >>> generalized_jsd_of(log_probs, log_probs, None, beta=0.5)
    tensor([-5.3848e-08])
    """
    student, teacher = student_log_probs, teacher_log_probs
    if beta == 0:
        terms = teacher.exp() * (finite(teacher) - student)
    elif beta == 1:
        terms = student.exp() * (student - teacher)
    else:
        teacher = finite(teacher)
        mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        terms = beta * teacher.exp() * (teacher - mixture) + (1 - beta) * student.exp() * (student - mixture)
    return (terms if exists is None else torch.where(exists, terms, 0.0)).sum(-1)
