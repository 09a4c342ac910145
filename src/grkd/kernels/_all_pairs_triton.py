"""All pairs on the GPU: tiles of pairs, or Chebyshev sums, chosen per row on the device by the row's range."""

import torch
import triton
from torch import Tensor

from grkd.kernels._available import interpreted
from grkd.kernels._chebyshev import range_for
from grkd.kernels._chebyshev_triton import crossing_ties, interpolate, sorted_rows
from grkd.kernels._options import PairOptions
from grkd.kernels._tiles_triton import spans_kernel, tiles_kernel

# A row's scores within this of its middle (in log 2) may each be exponentiated once: a pair is then a product, and
# two factors 1 + 2^(2 * 31) fit into a float32.
_SAFE = 31.0
# Candidates from which the Chebyshev sums pay for the sort that they need.
_INTERPOLATE_FROM = 1_536
# Node counts that are compiled; a row takes the first that its range allows, a wider one goes to the tiles.
_NODES = (64, 256)
# Entries sorted at a time, so that the sort's own copies stay small beside the inputs.
_SORTED = 320_000
# Pairs of a tile, and its warps: measured on an H200 at 1,000 and 10,000 candidates.
_ROWS, _COLUMNS, _WARPS = 32, 32, 4


def run(student: Tensor, teacher: Tensor, exists: Tensor | None, options: PairOptions) -> tuple[Tensor, Tensor]:
    """Losses [rows] and gradient [rows, candidates] in float32 for scores [rows, candidates]."""
    rows, candidates = student.shape
    student, teacher = student.contiguous(), teacher.detach().contiguous()
    gradient = torch.empty(rows, candidates, dtype=torch.float32, device=student.device)
    if rows == 0 or candidates == 0:
        return gradient.sum(-1), gradient
    masked = exists is not None
    mask = student if exists is None else exists.contiguous().view(torch.uint8)
    blocks = triton.cdiv(candidates, _ROWS)
    sums = torch.zeros(rows, blocks, dtype=torch.float32, device=student.device)
    counts = torch.zeros(rows, blocks, dtype=torch.int64, device=student.device)
    spans = torch.empty(rows, 2, dtype=torch.float32, device=student.device)
    inverse_tau = 1.0 / options.tau
    spans_kernel[(rows,)](student, mask, spans, candidates, inverse_tau, MASKED=masked, BLOCK=1024)
    interpolated = candidates >= _INTERPOLATE_FROM and not options.soft
    widest = range_for(_NODES[-1]) if interpolated else -1.0
    tiles_kernel[(rows * blocks,)](
        student, teacher, mask, spans, gradient, sums, counts, candidates, blocks, inverse_tau, widest, _SAFE,
        MASKED=masked, SOFT=options.soft, ROWS=_ROWS, COLUMNS=_COLUMNS, FAST=not interpreted(),
        num_warps=_WARPS,
    )  # fmt: skip
    if interpolated:
        size = max(1, _SORTED // candidates)
        for start in range(0, rows, size):
            part = slice(start, start + size)
            _interpolated(
                student[part], teacher[part], None if exists is None else exists[part], spans[part], gradient[part],
                sums[part], counts[part], inverse_tau,
            )  # fmt: skip
    here = candidates if exists is None else exists.sum(-1).clamp_min(1)
    divisor = counts.sum(-1).clamp_min(1) if options.normalize == "pairs" else here
    scale = torch.full((rows,), inverse_tau, device=student.device) / divisor
    gradient *= scale.unsqueeze(-1)
    return sums.sum(-1) / divisor, gradient


def _interpolated(
    student: Tensor,
    teacher: Tensor,
    exists: Tensor | None,
    spans: Tensor,
    gradient: Tensor,
    sums: Tensor,
    counts: Tensor,
    inverse_tau: float,
) -> None:
    """The rows whose range allows it, into gradient, sums and counts; the other rows' programs return at once."""
    rows, candidates = student.shape
    if exists is None:
        kept = teacher.float()
        here = torch.full((rows,), candidates, device=student.device)
    else:
        # Candidates that do not exist go to the end; they get no gradient.
        kept = teacher.float().masked_fill(~exists, torch.inf)
        here = exists.sum(-1)
    ordered, order = sorted_rows(kept)
    del kept
    scores = student.gather(-1, order.long()).float() * inverse_tau
    chosen = (spans[:, 1] - spans[:, 0]) <= range_for(_NODES[-1])
    if exists is not None:
        gradient.masked_fill_(~exists & chosen.unsqueeze(-1), 0.0)
    below = torch.searchsorted(ordered, ordered, out_int32=True)
    below = torch.where(torch.arange(candidates, device=student.device) < here.unsqueeze(-1), below, 0).sum(-1)
    counts[:, 0] = torch.where(chosen, below, counts[:, 0])
    ties = crossing_ties(ordered)
    above = -1.0
    for nodes in _NODES:
        upto = range_for(nodes)
        interpolate(
            scores, ordered, order, here, spans, *ties, gradient, sums,
            nodes=nodes, above=above, upto=upto, fast=not interpreted(),
        )  # fmt: skip
        above = upto
