"""LambdaLoss: the logistic loss on pairs, weighted by how much a swap changes NDCG."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from grkd.errors import UserError
from grkd.groups import checked_mask, has_pair, wide
from grkd.losses.at_once import sums_of_pairs, with_gradient
from grkd.objectives._any_level import AnyLevel
from grkd.objectives._base import LeastTeacher
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, known, not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term

_TILE = 1 << 23  # entries of a tile on a GPU


@dataclass(frozen=True, kw_only=True)
class LambdaLoss(AnyLevel):
    """LambdaLoss with the weights of NDCG-Loss2++ (Wang et al.); mu 0 is LambdaRank.

    L = -(1/|P|) sum over pairs (i, j) with y_i > y_j of w_ij log sigmoid(sigma (s_i - s_j)), in nats
    w_ij = |G_i - G_j| (mu |1/D_d - 1/D_(d+1)| + |1/D_p(i) - 1/D_p(j)|); p: place by the student's scores, from 1;
    d = |p(i) - p(j)|; D_p = log2(1 + p); G = (2^y - 1) / the best DCG@k.
    y: grades from 0 to `top_grade`. "places": the teacher's tiers, evenly spaced, so that only the order counts.
    "scores": the teacher's scores, rescaled to this range within each list.
    k: pairs with one of the student's first k, and DCG@k; 0: all. Rows without a pair do not count.
    Raises UserError for options out of range. Source: Wang et al., CIKM 2018; LambdaRank: Burges, MSR-TR-2010-82.
    """

    learns_from = "pairs that the teacher orders, weighted by their effect on NDCG"
    minimises = "logistic loss of pairs with the weights of NDCG-Loss2++; `mu: 0` is LambdaRank"
    source = "Wang et al., CIKM 2018"

    mu: float = option(10.0, "weight of NDCG-Loss2 relative to LambdaRank")
    sigma: float = option(1.0, "multiply the student's score differences by this")
    k: int = option(0, "only pairs with one of the student's first k candidates; 0: all")
    grades: Literal["places", "scores"] = option(
        "places", "grades of the candidates: the teacher's tiers (places) or its scores"
    )
    top_grade: float = option(4.0, "grade of the teacher's best candidate; its worst has 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("lambdaloss", self, "sigma", "top_grade")
        not_negative("lambdaloss", self, "mu")
        known("lambdaloss", self, "grades")
        if self.k < 0:
            raise UserError(f"lambdaloss: k must be 0 (all candidates) or more, got {self.k}")

    @property
    def least_teacher(self) -> LeastTeacher:
        return "tiers" if self.grades == "places" else "scores"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        exists = checked_mask(batch.mask, batch.student)
        teacher = batch.required_teacher().detach()
        counted = has_pair(teacher, mask=batch.mask)
        scores = torch.where(exists, wide(batch.student), 0.0)
        order = scores.detach().masked_fill(~exists, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        here, grades = exists.gather(-1, order), self._graded(wide(teacher), exists).gather(-1, order)
        rows = self._rows(scores.gather(-1, order), grades, here)
        return (Term(name="lambdaloss", weight=1.0, rows=torch.where(counted, rows, 0.0), counted=counted),)

    def _graded(self, teacher: Tensor, exists: Tensor) -> Float[Tensor, "rows candidates"]:
        """Grades from 0 to top_grade; 0 at masked candidates."""
        low = teacher.masked_fill(~exists, torch.inf)
        if self.grades == "places":
            rising = low.sort(-1).values
            steps = torch.zeros_like(rising)
            steps[:, 1:] = (rising[:, 1:] > rising[:, :-1]).to(rising.dtype)
            place = torch.searchsorted(rising, low.contiguous()).clamp_max(rising.shape[-1] - 1)
            low = steps.cumsum(-1).gather(-1, place).masked_fill(~exists, torch.inf)
        worst = low.amin(-1, keepdim=True)
        worst = torch.where(worst.isfinite(), worst, 0.0)
        above = torch.where(exists, low - worst, 0.0)
        return self.top_grade * above / above.amax(-1, keepdim=True).clamp_min(torch.finfo(above.dtype).tiny)

    def _rows(
        self, scores: Float[Tensor, "rows candidates"], grades: Float[Tensor, "rows candidates"], exists: Tensor
    ) -> Float[Tensor, " rows"]:
        """The loss of each list, its candidates in the student's order."""
        candidates = scores.shape[-1]
        inverse = 1 / torch.log2(1.0 + torch.arange(1, candidates + 2, device=scores.device))
        inverse = inverse.to(scores.dtype)
        k = self.k or candidates
        gains = 2.0**grades - 1
        best = (gains.sort(-1, descending=True).values * inverse[:-1])[:, :k].sum(-1, keepdim=True)
        gains = gains / torch.where(best > 0, best, 1.0)
        places = torch.arange(1, candidates + 1, device=scores.device)

        def tile(part: slice, better: slice) -> tuple[Tensor, Tensor, Tensor]:
            own = places[better, None]
            apart = (own - places).abs()
            weights = (inverse[:-1][better, None] - inverse[:-1]).abs()
            weights = weights + self.mu * torch.where(apart > 0, inverse[apart - 1] - inverse[apart], 0.0)
            weights = weights * (gains[part, better, None] - gains[part, None, :]).abs()
            pairs = grades[part, better, None] > grades[part, None, :]
            pairs &= exists[part, better, None] & exists[part, None, :] & ((own <= k) | (places <= k))
            gap = self.sigma * (scores[part, better, None] - scores[part, None, :])
            weights = torch.where(pairs, weights, 0.0)
            return -weights * logsigmoid(gap), -self.sigma * weights * torch.sigmoid(-gap), pairs

        totals, counts, gradient = sums_of_pairs(scores, tile, entries=_TILE)
        counts = counts.clamp_min(1)
        return with_gradient(scores, totals / counts, gradient / counts.unsqueeze(-1))


METHOD = LambdaLoss
