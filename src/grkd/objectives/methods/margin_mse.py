"""MarginMSE: squared error between the score differences of student and teacher."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, known
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class MarginMSE(Objective):
    """MarginMSE (Hofstätter et al.): squared error between the margins of student and teacher.

    L = mean over pairs of ((s_i - s_j) - scale (t_i - t_j))^2. pairs "best": i is the teacher's best (of equal ones the
    first), j every other candidate, as with one positive and its negatives; "all": all pairs.
    Rows with fewer than two candidates do not count. Raises UserError for options out of range.
    Source: Hofstätter et al., arXiv 2010.02666.
    """

    learns_from = "the teacher's margins between candidates"
    minimises = "squared error of score differences between the teacher's best and the others, or of all pairs"
    source = "Hofstätter et al., arXiv 2010.02666"

    scale: float = option(1.0, "multiply the teacher's scores by this")
    pairs: Literal["best", "all"] = option("best", "pairs: the teacher's best against each other candidate, or all")

    def __post_init__(self) -> None:
        above_zero("margin_mse", self, "scale")
        known("margin_mse", self, "pairs")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        exists = checked_mask(batch.mask, batch.student)
        student, teacher = wide(batch.student), wide(batch.required_teacher().detach())
        gap = torch.where(exists, student, 0.0) - self.scale * torch.where(exists, teacher, 0.0)
        count = exists.sum(-1)
        counted = count > 1
        others = (count - 1).clamp_min(1).to(gap.dtype)
        if self.pairs == "best":
            best = teacher.masked_fill(~exists, -torch.inf).argmax(-1, keepdim=True)
            rows = _squares(gap - gap.gather(-1, best), exists) / others
        else:
            # sum over pairs of (x_i - x_j)^2 = n sum of (x_i - mean)^2, and there are n (n - 1) / 2 pairs
            mean = gap.sum(-1, keepdim=True) / count.clamp_min(1).unsqueeze(-1)
            rows = 2 * _squares(gap - mean, exists) / others
        return (Term(name="margin_mse", weight=1.0, rows=torch.where(counted, rows, 0.0), counted=counted),)


def _squares(differences: Tensor, exists: Tensor) -> Tensor:
    return torch.where(exists, differences, 0.0).square().sum(-1)


METHOD = MarginMSE
