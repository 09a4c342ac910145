"""Pairs that do not all count the same, and pairs whose target is the teacher's margin itself."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses._pair_forms import HARD, PairForm, pair_form
from grkd.losses.at_once import sums_of_pairs, with_gradient
from grkd.losses.checks import Normalize, check_pairs

# (student, teacher, importance, exists, form) -> sums of losses [rows], of weights [rows], gradient.
Sums = Callable[[Tensor, Tensor, Tensor, Tensor | None, PairForm], tuple[Tensor, Tensor, Tensor]]

_TILE = 1 << 24  # entries of a tile on a GPU: 64 MB in float32


def weighted_pairs(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    importance: Float[Tensor, "*rows candidates"],
    mask: Tensor | None = None,
    tau: float = 1.0,
    pair_target: PairForm | str = HARD,
    normalize: Normalize = "pairs",
    sums: Sums | None = None,
) -> Float[Tensor, "*rows"]:
    """Group relative loss with a weight per pair, in nats, one value per row.

        P = {(i, j) : t_i > t_j, both unmasked};  w_ij = |v_i - v_j|;  d = (s_i - s_j) / tau;  D = (t_i - t_j) / tau
        L = (1/Z) sum_P w_ij value(d, D)
        Z = the sum of the weights for "pairs", the number of unmasked candidates for "candidates"

    A row whose weights sum to 0 gives 0. Gradients are taken in the forward pass, in tiles, so memory is bounded.

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    importance : Tensor [*rows, candidates]
        v of every candidate. No gradient reaches it.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    tau : float
        Scale of score differences; above 0.
    pair_target : str or PairForm
        "hard", "soft", "margin", or a form of your own.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.
    sums : callable, optional
        Another way to take sums and gradients (grkd.kernels.weighted_pairs).

    Returns
    -------
    Tensor [*rows]
        In nats.

    Raises
    ------
    UserError
        For tau that is not above 0, or an unknown option.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Ours; with equal weights it is `group_relative` (arXiv 2504.20482).

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import rank_discount, weighted_pairs
    >>> student, teacher = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> weighted_pairs(student, teacher, importance=rank_discount(teacher))
    tensor([1.0507])
    """
    _check(student_scores, teacher_scores, importance, tau, normalize)
    form = pair_form(pair_target)
    exists = None if mask is None else checked_mask(mask, student_scores)
    *rows, candidates = student_scores.shape
    student, teacher = (_present(scores, exists, tau) for scores in (student_scores, teacher_scores.detach()))
    exists = None if exists is None else exists.reshape(-1, candidates)
    weights = _present(importance.detach(), mask, 1.0)
    with torch.no_grad():
        totals, weight_sums, gradient = (sums or _in_tiles)(student, teacher, weights, exists, form)
    totals = with_gradient(student, totals, gradient)
    if normalize == "pairs":
        return (totals / torch.where(weight_sums > 0, weight_sums, 1.0)).reshape(rows)
    return (totals / (candidates if exists is None else exists.sum(-1).clamp_min(1))).reshape(rows)


def pair_margins(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    normalize: Normalize = "pairs",
) -> Float[Tensor, "*rows"]:
    """The margin form summed over all pairs of unmasked candidates in O(candidates), one value per row.

        L = (1/Z) sum_{i<j} (d - D)^2 / 8,  d = (s_i - s_j) / tau;  D = (t_i - t_j) / tau

    Z as in `weighted_pairs`, with all weights 1. Tied candidates are a pair too: their margin is 0. Uses the sum over
    pairs of (x_i - x_j)^2 = n * sum (x_i - mean x)^2 with x = (s - t) / tau. A row with fewer than two candidates
    gives 0.

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    tau : float
        Scale of score differences; above 0.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.

    Returns
    -------
    Tensor [*rows]
        Without unit.

    Raises
    ------
    UserError
        For tau that is not above 0, or an unknown option.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Ours.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import pair_margins
    >>> pair_margins(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))  # 2^2 / 8
    tensor([0.5000])
    """
    _check(student_scores, teacher_scores, teacher_scores, tau, normalize)
    exists = None if mask is None else checked_mask(mask, student_scores)
    *rows, candidates = student_scores.shape
    student, teacher = (_present(scores, exists, tau) for scores in (student_scores, teacher_scores.detach()))
    totals, pairs = _margins(student - teacher, None if exists is None else exists.reshape(-1, candidates))
    if normalize == "pairs":
        return (totals / torch.where(pairs > 0, pairs, 1.0)).reshape(rows)
    count = candidates if exists is None else exists.reshape(-1, candidates).sum(-1).clamp_min(1)
    return (totals / count).reshape(rows)


def _check(student: Tensor, teacher: Tensor, importance: Tensor, tau: float, normalize: str) -> None:
    if not student.shape == teacher.shape == importance.shape:
        raise ValueError(f"shapes of student {tuple(student.shape)}, teacher {tuple(teacher.shape)} differ")
    check_pairs(tau, normalize)


def rank_discount(teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Tensor:
    """1 / log2(1 + rank) of every candidate, 1 for the teacher's best; 0 at masked candidates.

    Equal scores share the better rank. As `importance`, |v_i - v_j| is what DCG loses per unit of gain if the two
    change places. O(n log n).

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    Tensor [*rows, candidates]
        Without unit.

    Raises
    ------
    ValueError
        For a mask of another shape.

    References
    ----------
    LambdaRank: Burges, MSR-TR-2010-82.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import rank_discount
    >>> rank_discount(torch.tensor([[1.0, 5.0, 3.0]]))
    tensor([[0.5000, 1.0000, 0.6309]])
    """
    exists = checked_mask(mask, teacher_scores)
    scores = torch.where(exists, -wide(teacher_scores.detach()), torch.inf).contiguous()
    rank = 1 + torch.searchsorted(scores.sort(-1).values, scores)
    return torch.where(exists, 1 / torch.log2(1 + rank.to(scores.dtype)), 0.0)


def _present(scores: Tensor, exists: Tensor | None, tau: float) -> Float[Tensor, "rows candidates"]:
    """Scores in units of tau, 0 if masked: NaN or inf there must reach neither the value nor the gradient."""
    scores = wide(scores) if exists is None else torch.where(exists.bool(), wide(scores), 0.0)
    return (scores if tau == 1 else scores / tau).reshape(-1, scores.shape[-1])


def _margins(gap: Float[Tensor, "rows candidates"], exists: Tensor | None) -> tuple[Tensor, Tensor]:
    if exists is None:
        count = gap.new_full((len(gap),), float(gap.shape[-1]))
        return gap.shape[-1] * (gap - gap.mean(-1, keepdim=True)).square().sum(-1) / 8, count * (count - 1) / 2
    count = exists.sum(-1).to(gap.dtype)
    mean = gap.sum(-1, keepdim=True) / count.clamp_min(1).unsqueeze(-1)
    return count * torch.where(exists, gap - mean, 0.0).square().sum(-1) / 8, count * (count - 1) / 2


def _in_tiles(
    student: Tensor, teacher: Tensor, values: Tensor, exists: Tensor | None, form: PairForm
) -> tuple[Tensor, Tensor, Tensor]:
    def tile(part: slice, better: slice) -> tuple[Tensor, Tensor, Tensor]:
        ordered = teacher[part, better, None] > teacher[part, None, :]
        if exists is not None:
            ordered &= exists[part, better, None]
            ordered &= exists[part, None, :]
        weight = (values[part, better, None] - values[part, None, :]).abs_().mul_(ordered)
        margin = student[part, better, None] - student[part, None, :]
        # Pairs in no order are left out first: two scores of -inf differ by NaN.
        wanted = torch.where(ordered, teacher[part, better, None] - teacher[part, None, :], 0.0)
        return form.value(margin, wanted) * weight, form.slope(margin, wanted) * weight, weight

    return sums_of_pairs(student, tile, entries=_TILE)
