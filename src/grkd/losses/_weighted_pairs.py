"""Pairs that do not all count the same, and pairs whose target is the teacher's margin itself."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from grkd.errors import UserError
from grkd.groups import checked_mask, wide
from grkd.losses._group_relative import Normalize

PairForm = Literal["hard", "soft", "margin"]
# (student, teacher, importance, exists, pair_target) -> sums of losses [rows], of weights [rows], gradient.
Sums = Callable[[Tensor, Tensor, Any, Any, str], tuple[Tensor, Tensor, Tensor]]

# Entries of one [rows, block, candidates] tile; about six such tiles live at once (64 MB each in float32).
_TILE = 1 << 24


def weighted_pairs(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    importance: Float[Tensor, "*rows candidates"] | None = None,
    mask: Tensor | None = None,
    tau: float = 1.0,
    pair_target: PairForm = "hard",
    normalize: Normalize = "pairs",
    sums: Sums | None = None,
) -> Float[Tensor, "*rows"]:
    """Group relative loss with a weight w_ij = |v_i - v_j| on every pair, v = importance; one value a row.

    P = {(i, j) : t_i > t_j, both unmasked};  d = (s_i - s_j) / tau;  D = (t_i - t_j) / tau;  q = sigmoid(D)
    L = (1/Z) sum_P w_ij l_ij;  hard: l = -log sigmoid(d);  soft: l = -(q log sigmoid(d) + (1 - q) log sigmoid(-d));
    margin: l = (d - D)^2 / 8, what tau^2 * soft becomes (less its least value) as tau grows, at any tau.
    Z = the sum of the weights for normalize="pairs", the number of unmasked candidates for "candidates".
    importance None: all weights are 1, and margins are summed over all pairs, ties too (their margin is 0), in
    O(candidates): sum over pairs of (x_i - x_j)^2 = n * sum (x_i - mean x)^2 with x = s - t.
    A row whose weights sum to 0 gives 0. No gradient reaches the teacher; gradients are taken in the forward pass,
    in tiles, so memory is bounded; `sums` is another way to take them (grkd.kernels.weighted_pairs).
    Raises UserError for tau <= 0 or an unknown option, ValueError for shapes that differ.
    Source: ours; hard and unweighted it is grkd.losses.group_relative (arXiv 2504.20482).
    """
    if not student_scores.shape == teacher_scores.shape == (teacher_scores if importance is None else importance).shape:
        raise ValueError(
            f"shapes of student {tuple(student_scores.shape)}, teacher {tuple(teacher_scores.shape)} differ"
        )
    if not tau > 0:
        raise UserError(f"tau must be above 0, got {tau}")
    for name, value, known in (("pair_target", pair_target, PairForm), ("normalize", normalize, Normalize)):
        if value not in get_args(known):
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(get_args(known))}")
    exists = None if mask is None else checked_mask(mask, student_scores)
    *rows, candidates = student_scores.shape
    student, teacher = (_present(scores, exists, tau) for scores in (student_scores, teacher_scores.detach()))
    exists = None if exists is None else exists.reshape(-1, candidates)
    if importance is None and pair_target == "margin":
        totals, weight_sums = _margins(student - teacher, exists)
    else:
        weights = None if importance is None else _present(importance.detach(), mask, 1.0)
        totals, weight_sums = _WeightedPairs.apply(student, teacher, weights, exists, pair_target, sums or _in_tiles)
    if normalize == "pairs":
        return (totals / torch.where(weight_sums > 0, weight_sums, 1.0)).reshape(rows)
    return (totals / (candidates if exists is None else exists.sum(-1).clamp_min(1))).reshape(rows)


def rank_discount(teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Tensor:
    """1 / log2(1 + rank) of every candidate, 1 for the teacher's best; equal scores share the better rank.

    The importance of rank-discounted pairs: |v_i - v_j| is what DCG loses for a unit of gain where the two change
    places (LambdaRank: Burges, MSR-TR-2010-82). 0 at masked candidates. O(n log n).
    """
    exists = checked_mask(mask, teacher_scores)
    scores = torch.where(exists, -wide(teacher_scores.detach()), torch.inf).contiguous()
    rank = 1 + torch.searchsorted(scores.sort(-1).values, scores)
    return torch.where(exists, 1 / torch.log2(1 + rank.to(scores.dtype)), 0.0)


def _present(scores: Tensor, exists: Tensor | None, tau: float) -> Float[Tensor, "rows candidates"]:
    """Scores in units of tau, 0 where masked: NaN or inf there must reach neither the value nor the gradient."""
    scores = wide(scores) if exists is None else torch.where(exists.bool(), wide(scores), 0.0)
    return (scores if tau == 1 else scores / tau).reshape(-1, scores.shape[-1])


def _margins(gap: Float[Tensor, "rows candidates"], exists: Tensor | None) -> tuple[Tensor, Tensor]:
    if exists is None:
        count = gap.new_full((len(gap),), float(gap.shape[-1]))
        return gap.shape[-1] * (gap - gap.mean(-1, keepdim=True)).square().sum(-1) / 8, count * (count - 1) / 2
    count = exists.sum(-1).to(gap.dtype)
    mean = gap.sum(-1, keepdim=True) / count.clamp_min(1).unsqueeze(-1)
    return count * torch.where(exists, gap - mean, 0.0).square().sum(-1) / 8, count * (count - 1) / 2


class _WeightedPairs(torch.autograd.Function):
    """Sums over a row's pairs and their weights; the gradient is found with the value."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, values: Any, exists: Any, pair_target: str, sums: Sums
    ) -> tuple[Tensor, Tensor]:
        totals, weights, gradient = sums(student, teacher, values, exists, pair_target)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(weights)
        return totals, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *unused: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(-1), None, None, None, None, None


def _in_tiles(
    student: Tensor, teacher: Tensor, values: Tensor | None, exists: Tensor | None, pair_target: str
) -> tuple[Tensor, Tensor, Tensor]:
    rows, candidates = student.shape
    row_step = max(1, _TILE // max(1, candidates**2))
    block = min(max(1, candidates), max(1, _TILE // max(1, candidates)))
    totals, sums, gradient = student.new_zeros(rows), student.new_zeros(rows), torch.zeros_like(student)
    for row in range(0, rows, row_step):
        part = slice(row, row + row_step)
        own, others = student[part], teacher[part]
        rest = [None if x is None else x[part] for x in (values, exists)]
        for start in range(0, candidates, block):
            preferred = slice(start, start + block)
            loss, weight, slope = _tile(own, others, rest[0], rest[1], preferred, pair_target)
            totals[part] += loss
            sums[part] += weight
            gradient[part, preferred] += slope.sum(-1)
            gradient[part] -= slope.sum(-2)
    return totals, sums, gradient


def _tile(
    student: Tensor, teacher: Tensor, values: Tensor | None, exists: Tensor | None, preferred: slice, pair_target: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the pairs whose preferred candidate i is in the slice: losses and weights summed, d loss / d (s_i - s_j)."""
    ordered = teacher[:, preferred, None] > teacher[:, None, :]
    if exists is not None:
        ordered &= exists[:, preferred, None]
        ordered &= exists[:, None, :]
    if values is None:
        weight = ordered.to(student.dtype)
    else:
        weight = (values[:, preferred, None] - values[:, None, :]).abs_().mul_(ordered)
    behind = student[:, None, :] - student[:, preferred, None]
    if pair_target == "margin":
        behind -= teacher[:, None, :] - teacher[:, preferred, None]
        return (weight * behind.square()).sum((-1, -2)) / 8, weight.sum((-1, -2)), behind.mul_(weight).div_(-4)
    # log(1 + exp(x)) is x to double precision from 40 on.
    loss, slope = softplus(behind, threshold=40), torch.sigmoid(behind).neg_()
    if pair_target == "soft":
        other = torch.sigmoid(teacher[:, None, :] - teacher[:, preferred, None])
        loss.addcmul_(other, behind, value=-1)
        slope += other
    return loss.mul_(weight).sum((-1, -2)), weight.sum((-1, -2)), slope.mul_(weight)
