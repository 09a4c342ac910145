"""The group relative loss over all pairs of many candidates: exact value and gradient, O(candidates) memory a row."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.kernels._available import use_triton
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._options import PAIR_KERNELS, Implementation, PairOptions, implementation_of
from grkd.losses import HARD, Normalize, PairForm, group_relative
from grkd.losses.at_once import with_gradient
from grkd.losses.checks import check_shapes

# Candidates from which value and gradient are found at once on a CPU: below, autograd through all pairs is as fast.
_AT_ONCE_FROM = 160
_TILE = 1 << 16  # entries of a tile: 256 KiB in float32, a few of them at a time
_ROWS = 16  # taken together
_LEAST = 64  # candidates of a tile's side, at least: each tile costs some fifty microseconds by itself


@outside_graphs
def all_pairs(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    pair_target: PairForm | str = HARD,
    normalize: Normalize = "pairs",
    implementation: Implementation = "auto",
) -> Float[Tensor, "*rows"]:
    """grkd.losses.group_relative, fast: the same value and gradient (formula and options there), one value per row.

    Pair by pair in tiles. On CUDA hard pairs of many candidates are summed by Chebyshev interpolation (O(candidates *
    nodes), see docs/kernels.md for the bound) in rows whose range of student scores / tau allows it. Gradients are
    taken in the forward pass; not of fewer than 160 candidates on a CPU, where group_relative itself runs.
    Raises what group_relative raises, and UserError for an implementation that cannot run.
    """
    options = PairOptions.of(tau=tau, pair_target=pair_target, normalize=normalize)
    check_shapes(student_scores, teacher_scores)
    exists = checked_mask(mask, student_scores)
    on_device = use_triton(student_scores, implementation_of(options.form, PAIR_KERNELS, implementation))
    if not on_device and (student_scores.shape[-1] < _AT_ONCE_FROM or student_scores.is_cuda):
        return group_relative(
            student_scores, teacher_scores, mask=mask, tau=tau, pair_target=pair_target, normalize=normalize
        )
    *rows, candidates = student_scores.shape
    student, teacher = student_scores.reshape(-1, candidates), teacher_scores.reshape(-1, candidates)
    here = exists.reshape(-1, candidates)
    with torch.no_grad():
        if on_device:
            from grkd.kernels import _all_pairs_triton

            losses, gradient = _all_pairs_triton.run(student, teacher, None if mask is None else here, options)
        else:
            losses, gradient = _in_torch(student, teacher, here, options)
    return with_gradient(student, losses, gradient).reshape(rows)


def _in_torch(student: Tensor, teacher: Tensor, here: Tensor, options: PairOptions) -> tuple[Tensor, Tensor]:
    """Losses and gradient of rows on a CPU, in at least float32."""
    dtype = wide(student[:0]).dtype
    scores = torch.where(here, wide(student), 0.0) / options.tau
    totals, counts, gradient = tiled(scores, wide(teacher) / options.tau, here, options.form)
    divisor = (counts if options.normalize == "pairs" else here.sum(-1)).clamp_min(1)
    return (totals / divisor).to(dtype), (gradient / divisor.unsqueeze(-1) / options.tau).to(dtype)


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
        _tiled_rows(student[at : at + _ROWS], teacher[at : at + _ROWS], exists[at : at + _ROWS], form)
        for at in range(0, len(student), _ROWS)
    ]
    totals, counts, gradients = zip(*parts, strict=True)
    return torch.cat(totals), torch.cat(counts), torch.cat(gradients)


def _tiled_rows(student: Tensor, teacher: Tensor, exists: Tensor, form: PairForm) -> tuple[Tensor, Tensor, Tensor]:
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
