"""Losses whose gradient is found with the value: pairs in tiles, or a kernel that makes both."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# (rows of a tile, its better candidates) -> losses, slopes by the better one's score, weights; [rows, better, all].
Tile = Callable[[slice, slice], tuple[Tensor, Tensor, Tensor]]

_ENTRIES_CPU = 1 << 17  # of a tile that fits into a processor's cache


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = scores.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream.unsqueeze(-1).to(gradient.dtype)).to(ctx.dtype), None, None


def with_gradient(
    scores: Float[Tensor, "rows candidates"], losses: Float[Tensor, " rows"], gradient: Float[Tensor, "rows candidates"]
) -> Float[Tensor, " rows"]:
    """The losses, whose gradient by the scores of their row is this one; it cannot be differentiated again."""
    found: Tensor = _WithGradient.apply(scores, losses, gradient)
    return found


@torch.no_grad()
def sums_of_pairs(
    scores: Float[Tensor, "rows candidates"], tile: Tile, *, entries: int
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, "rows candidates"]]:
    """Losses and weights summed over each row's pairs, and the gradient of the first by the scores.

    entries: of a tile on a GPU; several tensors of its size live at once.
    """
    rows, candidates = scores.shape
    losses, weights, gradient = scores.new_zeros(rows), scores.new_zeros(rows), torch.zeros_like(scores)
    entries = entries if scores.is_cuda else _ENTRIES_CPU
    step, block = max(1, entries // max(1, candidates**2)), max(1, entries // max(1, candidates))
    for row in range(0, rows, step):
        part = slice(row, row + step)
        for start in range(0, candidates, block):
            better = slice(start, min(candidates, start + block))
            loss, slope, weight = tile(part, better)
            losses[part] += loss.sum((-1, -2))
            weights[part] += weight.sum((-1, -2))
            gradient[part, better] += slope.sum(-1)
            gradient[part] -= slope.sum(-2)
    return losses, weights, gradient
