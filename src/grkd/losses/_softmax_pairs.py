"""A candidate against all that the teacher puts below it, in one softmax."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from grkd.groups import checked_mask, wide
from grkd.losses._tiered_plackett_luce import bounds, by_teacher, log_sum_below
from grkd.losses.checks import Normalize, check_scale, check_shapes


def softmax_pairs(
    student_scores: Float[Tensor, "rows candidates"],
    teacher_scores: Float[Tensor, "rows candidates"],
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    normalize: Normalize = "pairs",
) -> Float[Tensor, " rows"]:
    """Softmax of every candidate against all below it in the teacher's order, in nats, one value per row.

        L = (1/Z) sum over i in A of log(1 + sum over j with t_j < t_i of exp(-(s_i - s_j) / tau))
        A: candidates with one below them;  Z = |A| for "pairs", the number of unmasked candidates for "candidates"

    `group_relative` takes the mean of a candidate's pairs; this takes their log-sum-exp, so that the pairs that the
    student gets most wrong count most. Candidates with equal teacher scores are not compared. Without ties it is
    `plackett_luce` / (candidates - 1), with one candidate above all others InfoNCE. O(candidates log candidates).
    Rows whose candidates are all tied give 0.

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Scores of the student. Unmasked scores must be finite.
    teacher_scores : Tensor [rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.
    tau : float
        Scale of score differences; above 0.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.

    Returns
    -------
    Tensor [rows]
        In nats.

    Raises
    ------
    UserError
        For tau that is not above 0.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    InfoNCE: van den Oord et al., arXiv 1807.03748; over a full order, ListMLE: Xia et al., ICML 2008; tiers: ours.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import softmax_pairs
    >>> softmax_pairs(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))  # one of three equal candidates: log 3
    tensor([1.0986])
    """
    check_shapes(student_scores, teacher_scores)
    check_scale("tau", tau)
    exists = checked_mask(mask, student_scores)
    student, teacher = by_teacher(wide(student_scores) / tau, teacher_scores, exists)
    below = log_sum_below(student, bounds(teacher)[1])
    counted = torch.isfinite(teacher) & torch.isfinite(below)
    margins = torch.where(counted, below, 0.0) - torch.where(counted, student, 0.0)
    divisor = counted.sum(-1) if normalize == "pairs" else exists.sum(-1)
    return torch.where(counted, softplus(margins), 0.0).sum(-1) / divisor.clamp_min(1)


def voted_softmax_pairs(
    student_scores: Float[Tensor, "rows candidates"],
    above: Bool[Tensor, "rows candidates candidates"],
    *,
    tau: float = 1.0,
    normalize: Normalize = "pairs",
    mask: Tensor | None = None,
) -> Float[Tensor, " rows"]:
    """`softmax_pairs` on pairs that need not come from an order, such as a majority's; in nats, one value per row.

    The formula of softmax_pairs, with above[i, j] in place of t_j < t_i. O(candidates^2).

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Scores of the student. Unmasked scores must be finite.
    above : bool Tensor [rows, candidates, candidates]
        True where candidate i stands above candidate j.
    tau : float
        Scale of score differences; above 0.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.

    Returns
    -------
    Tensor [rows]
        In nats.

    Raises
    ------
    UserError
        For tau that is not above 0.

    References
    ----------
    See softmax_pairs.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import voted_softmax_pairs
    >>> voted_softmax_pairs(torch.zeros(1, 2), torch.tensor([[[False, True], [False, False]]]))
    tensor([0.6931])
    """
    check_scale("tau", tau)
    exists = checked_mask(mask, student_scores)
    above = above & exists.unsqueeze(-1) & exists.unsqueeze(-2)
    student = torch.where(exists, wide(student_scores), 0.0) / tau
    margins = student.unsqueeze(-2) - student.unsqueeze(-1)  # [i, j]: s_j - s_i
    lowest = torch.finfo(margins.dtype).min / 4
    worst = torch.where(above, margins, lowest).logsumexp(-1)
    counted = above.any(-1)
    divisor = counted.sum(-1) if normalize == "pairs" else exists.sum(-1)
    return torch.where(counted, softplus(worst), 0.0).sum(-1) / divisor.clamp_min(1)
