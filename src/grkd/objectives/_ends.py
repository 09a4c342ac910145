"""The best and the worst response of a group, for methods that compare a pair."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.groups import checked_mask, has_pair, wide
from grkd.objectives._batch import Batch


@dataclass(frozen=True)
class Ends:
    """Indices of each row's best and worst candidate by teacher score, and whether they differ in score.

    Of equal scores the lowest index is taken. A row without a pair (one response, or all tied) does not count.
    """

    best: Int[Tensor, " rows"]
    worst: Int[Tensor, " rows"]
    counted: Bool[Tensor, " rows"]


def ends(batch: Batch) -> Ends:
    """The ends of every group. Raises ValueError without teacher scores, or for a mask of another shape."""
    teacher = wide(batch.required_teacher().detach())
    exists = checked_mask(batch.mask, teacher)
    best = teacher.masked_fill(~exists, -torch.inf).argmax(-1)
    worst = teacher.masked_fill(~exists, torch.inf).argmin(-1)
    return Ends(best, worst, has_pair(teacher, mask=exists))


def present(batch: Batch, values: Tensor) -> Float[Tensor, "rows candidates"]:
    """Values of the candidates in the student's precision, 0 (and no gradient) where a candidate is missing."""
    exists = checked_mask(batch.mask, batch.student)
    return torch.where(exists, values.to(wide(batch.student).dtype), 0.0)


def at(values: Float[Tensor, "rows candidates"], index: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """One candidate of each row."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
