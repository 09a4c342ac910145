"""Relative matching: the pairwise logistic loss over the pairs that the teacher orders."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grkd.groups import checked_mask, wide
from grkd.losses._pair_forms import HARD, PairForm, pair_form
from grkd.losses.checks import Normalize, check_pairs, check_shapes

# Entries of one [rows, block, candidates] tile. Several such tiles live at once (256 MB in float32 at this size).
_TILE = 1 << 24


def group_relative(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    pair_target: PairForm | str = HARD,
    normalize: Normalize = "pairs",
) -> Float[Tensor, "*rows"]:
    """Group relative loss: how badly the student orders the pairs that the teacher orders, in nats, one value per row.

        P = {(i, j) : t_i > t_j, both unmasked};  d_ij = (s_i - s_j) / tau;  q_ij = sigmoid((t_i - t_j) / tau)
        hard: L = -(1/Z) sum_P log sigmoid(d_ij)
        soft: L = -(1/Z) sum_P [q_ij log sigmoid(d_ij) + (1 - q_ij) log sigmoid(-d_ij)]
        any form: L = (1/Z) sum_P value(d_ij, D_ij),  D_ij = (t_i - t_j) / tau
        Z = |P| for "pairs", the number of unmasked candidates for "candidates"

    A row without a pair (all tied, or fewer than two candidates) gives 0. Work is O(candidates^2) per row; memory is
    bounded by tiles that are recomputed in the backward pass.

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
    pair_target : str or PairForm
        "hard", "soft", "margin", or a form of your own.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.

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
    arXiv 2504.20482 (hard, pairs). Soft targets and the mean per candidate are ours, see docs/method.md.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import group_relative
    >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> group_relative(student, teacher)  # three undecided pairs: log 2
    tensor([0.6931])
    >>> group_relative(student, teacher, normalize="candidates", pair_target="soft")
    tensor([0.6931])
    """
    form = pair_form(pair_target)
    check_shapes(student_scores, teacher_scores)
    check_pairs(tau, normalize)
    exists = checked_mask(mask, student_scores)
    *rows, candidates = student_scores.shape
    # Masked entries leave before any arithmetic: NaN or inf there must reach neither the value nor the gradient.
    student = torch.where(exists, wide(student_scores), 0.0).reshape(-1, candidates)
    student = student if tau == 1 else student / tau
    teacher = torch.where(exists, wide(teacher_scores.detach()), 0.0).reshape(-1, candidates)
    exists = exists.reshape(-1, candidates)

    totals, counts = _sum_over_tiles(student, teacher, exists, tau, form)
    divisor = counts if normalize == "pairs" else exists.sum(-1)
    return (totals / divisor.clamp_min(1)).reshape(rows)


def _sum_over_tiles(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    exists: Tensor,
    tau: float,
    form: PairForm,
) -> tuple[Float[Tensor, " rows"], Tensor]:
    rows, candidates = student.shape
    row_step = max(1, _TILE // max(1, candidates**2))
    block = min(candidates, max(1, _TILE // max(1, candidates)))
    if row_step >= rows and block == candidates:
        return _tile(student, teacher, exists, slice(None), tau, form)
    totals, counts = [], []
    for row in range(0, rows, row_step):
        part = slice(row, row + row_step)
        sums = [
            checkpoint(
                _tile, student[part], teacher[part], exists[part], slice(i, i + block), tau, form, use_reentrant=False
            )
            for i in range(0, candidates, block)
        ]
        totals.append(torch.stack([total for total, _ in sums]).sum(0))
        counts.append(torch.stack([count for _, count in sums]).sum(0))
    return torch.cat(totals), torch.cat(counts)


def _tile(
    student: Tensor, teacher: Tensor, exists: Tensor, preferred: slice, tau: float, form: PairForm
) -> tuple[Tensor, Tensor]:
    """Sum of the pair losses and number of pairs whose preferred candidate lies in the slice."""
    # t_i > t_j, not D > 0: the difference of two distinct subnormals may be flushed to 0.
    ordered = (teacher[:, preferred, None] > teacher[:, None, :]) & exists[:, preferred, None] & exists[:, None, :]
    gap = student[:, preferred, None] - student[:, None, :]
    wanted = teacher[:, preferred, None] - teacher[:, None, :]
    if tau != 1:
        wanted = wanted / tau
    if form is not HARD:  # which does not read it; of two scores of -inf it is NaN, and so would be the gradient
        wanted = torch.where(ordered, wanted, 0.0)
    return torch.where(ordered, form.value(gap, wanted), 0.0).sum((-1, -2)), ordered.sum((-1, -2))
