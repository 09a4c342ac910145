"""The two parts of a KL divergence with labels: how sure of the true class, and how the others are spread."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses.checks import check_scale


def decoupled_kl(
    student_scores: Float[Tensor, "rows candidates"],
    teacher_scores: Float[Tensor, "rows candidates"],
    labels: Int[Tensor, " rows"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The two parts of a KL divergence with labels: the true class against the rest, and the rest among themselves.

        p = softmax(scores / T);  b = (p_label, 1 - p_label);  p^ = p over the other classes, made to sum to 1
        target = KL(b_T || b_S);  non-target = KL(p^_T || p^_S)
        KL(p_T || p_S) = target + (1 - p_T(label)) * non-target

    A row whose label is negative or masked gives 0 in both. There is no factor T^2.

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Logits of the student.
    teacher_scores : Tensor [rows, candidates]
        Logits of the teacher. No gradient reaches them.
    labels : int Tensor [rows]
        The true candidate of each row; negative: unknown.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.
    temperature : float
        Divides both sides' scores before the softmax; above 0.

    Returns
    -------
    (Tensor [rows], Tensor [rows])
        target and non-target, in nats.

    Raises
    ------
    UserError
        For a temperature that is not above 0.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Zhao et al., arXiv 2203.08679, Eq. 5-6.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import decoupled_kl
    >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> decoupled_kl(student, teacher, torch.tensor([0]))
    (tensor([0.2291]), tensor([0.1109]))
    """
    check_scale("temperature", temperature)
    if student_scores.shape != teacher_scores.shape or labels.shape != student_scores.shape[:1]:
        raise ValueError(
            f"student scores have shape {tuple(student_scores.shape)}, teacher scores {tuple(teacher_scores.shape)}, "
            f"labels {tuple(labels.shape)}"
        )
    exists = checked_mask(mask, student_scores)
    chosen = torch.where(labels >= 0, labels, 0).unsqueeze(-1)
    counted = (labels >= 0) & exists.gather(-1, chosen).squeeze(-1)
    others = exists.scatter(-1, chosen, False)
    student, teacher = wide(student_scores), wide(teacher_scores.detach())
    student_target, student_rest, student_others = _split(student / temperature, exists, others, chosen)
    teacher_target, teacher_rest, teacher_others = _split(teacher / temperature, exists, others, chosen)
    target = teacher_target.exp() * (teacher_target - student_target)
    target = target + teacher_rest.exp() * (teacher_rest - student_rest)
    non_target = torch.where(others, teacher_others.exp() * (teacher_others - student_others), 0.0).sum(-1)
    return torch.where(counted, target, 0.0), torch.where(counted, non_target, 0.0)


def _split(scores: Tensor, exists: Tensor, others: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p_label, log(1 - p_label) [rows] and the log-probabilities of the other classes among themselves."""
    # Finite instead of -inf, a quarter of it so that differences of two such numbers stay finite.
    floor = torch.finfo(scores.dtype).min / 4
    scores = torch.where(exists, scores, floor).clamp_min(floor)
    rest = torch.where(others, scores, floor)
    of_all, of_rest = scores.logsumexp(-1), rest.logsumexp(-1)
    target = scores.gather(-1, chosen).squeeze(-1) - of_all
    return target, of_rest - of_all, rest - of_rest.unsqueeze(-1)
