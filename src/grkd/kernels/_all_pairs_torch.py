"""All pairs in torch, pair by pair: value and gradient at once, in tiles that fit into a processor's cache."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.losses import HARD, PairForm

_TILE = 1 << 16  # entries of a tile: 256 KiB in float32, a few of them at a time
_ROWS = 16  # taken together
_LEAST = 64  # candidates of a tile's side, at least: each tile costs some fifty microseconds by itself


def tiled(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    exists: Bool[Tensor, "rows candidates"],
    form: PairForm,
) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"], Float[Tensor, "rows candidates"]]:
    """Sums of form.value over the pairs that the teacher orders, the pairs' number, and the gradient by s.

    student, teacher: scores divided by tau. Sorted by the teacher, so that only half of the pairs are looked at.
    """
    parts = [
        _rows(student[at : at + _ROWS], teacher[at : at + _ROWS], exists[at : at + _ROWS], form)
        for at in range(0, len(student), _ROWS)
    ]
    totals, counts, gradients = zip(*parts, strict=True)
    return torch.cat(totals), torch.cat(counts), torch.cat(gradients)


def _rows(student: Tensor, teacher: Tensor, exists: Tensor, form: PairForm) -> tuple[Tensor, Tensor, Tensor]:
    # Masked candidates go to the end, as NaN: they are above and below nothing.
    t, order = teacher.masked_fill(~exists, -torch.inf).sort(-1, descending=True)
    kept = exists.gather(-1, order)
    t, s = t.masked_fill(~kept, torch.nan), student.gather(-1, order)
    rows, candidates = s.shape
    gradient = torch.zeros_like(s)
    total, count = s.new_zeros(rows), torch.zeros(rows, dtype=torch.long, device=s.device)
    first = 0
    while first < candidates:
        side = min(candidates - first, max(_LEAST, _TILE // (rows * (candidates - first))))
        better, others = slice(first, first + side), slice(first, candidates)
        # t_i > t_j, not D > 0: the difference of two distinct subnormals may be flushed to 0.
        ordered = t[:, better, None] > t[:, None, others]
        gap = s[:, better, None] - s[:, None, others]
        wanted = gap if form is HARD else t[:, better, None] - t[:, None, others]  # hard pairs do not read it
        total += torch.where(ordered, form.value(gap, wanted), 0.0).sum((-1, -2))
        slopes = torch.where(ordered, form.slope(gap, wanted), 0.0)
        gradient[:, better] += slopes.sum(-1)
        gradient[:, others] -= slopes.sum(-2)
        count += ordered.sum((-1, -2))
        first += side
    return total, count, torch.zeros_like(gradient).scatter_(-1, order, gradient)
