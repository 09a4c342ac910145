"""Absolute matching of probabilities: soft targets."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses.checks import check_scale, check_shapes


def soft_target(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    t_squared: bool = False,
) -> Float[Tensor, "*rows"]:
    """Cross-entropy of the student under the teacher's soft targets, in nats, one value per row.

        L = -sum_k p_T(k) log p_S(k),  p_T = softmax(t / T), p_S = softmax(s / T) over the unmasked candidates

    A row without an unmasked candidate gives 0.

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
    t_squared : bool
        Multiply by T^2, which keeps the gradient's size as T grows.

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

    References
    ----------
    Hinton et al., arXiv 1503.02531; arXiv 2504.20482 uses it without T^2.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import soft_target
    >>> soft_target(torch.zeros(1, 4), torch.tensor([[2.0, 1.0, 0.0, -1.0]]))  # log 4
    tensor([1.3863])
    """
    check_shapes(student_scores, teacher_scores)
    check_scale("temperature", temperature)
    # Without a mask nothing is looked up: on a GPU every small operation costs its launch.
    exists = None if mask is None else checked_mask(mask, student_scores)
    student, teacher = (
        masked_log_softmax(scores, exists, temperature) for scores in (student_scores, teacher_scores.detach())
    )
    loss = cross_entropy_of(student, teacher, exists)
    return loss * temperature**2 if t_squared else loss


def cross_entropy_of(
    student_log_probs: Float[Tensor, "*rows candidates"],
    teacher_log_probs: Float[Tensor, "*rows candidates"],
    exists: Bool[Tensor, "*rows candidates"] | None,
) -> Float[Tensor, "*rows"]:
    """-sum_k p_T(k) log p_S(k) of log-probabilities that exist already, in nats, one value per row.

    Parameters
    ----------
    student_log_probs, teacher_log_probs : Tensor [*rows, candidates]
        As `masked_log_softmax` gives them, in nats.
    exists : bool Tensor [*rows, candidates] or None
        True where a candidate exists; None: everywhere.

    Returns
    -------
    Tensor [*rows]
        In nats.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import cross_entropy_of, masked_log_softmax
    >>> uniform = masked_log_softmax(torch.zeros(1, 2), None, 1.0)
    >>> cross_entropy_of(uniform, uniform, None)
    tensor([0.6931])
    """
    terms = teacher_log_probs.exp() * student_log_probs
    # where, not a product: 0 * -inf at a masked candidate is NaN.
    return -(terms if exists is None else torch.where(exists, terms, 0.0)).sum(-1)


def finite(log_probs: Tensor) -> Tensor:
    """Log-probabilities in which -inf is the most negative finite number: a probability of 0 times it is 0, not NaN."""
    return log_probs.clamp_min(torch.finfo(log_probs.dtype).min)


def masked_log_softmax(
    scores: Float[Tensor, "*rows candidates"], exists: Bool[Tensor, "*rows candidates"] | None, temperature: float
) -> Float[Tensor, "*rows candidates"]:
    """log softmax(scores / temperature) over the candidates that exist.

    Parameters
    ----------
    scores : Tensor [*rows, candidates]
        Any scores.
    exists : bool Tensor [*rows, candidates] or None
        True where a candidate exists; None: everywhere.
    temperature : float
        Divides the scores; above 0.

    Returns
    -------
    Tensor [*rows, candidates]
        Log-probabilities in nats, in at least float32; without meaning where a candidate is missing.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import masked_log_softmax
    >>> masked_log_softmax(torch.zeros(1, 2), None, 1.0)
    tensor([[-0.6931, -0.6931]])
    """
    scores = wide(scores) if temperature == 1 else wide(scores) / temperature
    if exists is None:
        return scores.log_softmax(-1)
    # The most negative finite number instead of -inf: a row that is masked whole stays finite. What stands at masked
    # entries (NaN, inf) reaches neither the value nor the gradient.
    return torch.where(exists, scores, torch.finfo(scores.dtype).min).log_softmax(-1)
