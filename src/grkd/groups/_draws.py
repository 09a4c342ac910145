"""Draws without replacement from random numbers by seed, as the kernels make them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.draws import uniforms

_LANES = 512
# Scores below all others: of candidates that do not exist, and of those that are drawn already. Not -inf, whose
# difference with itself is NaN.
MASKED, _TAKEN = -1e30, -2e30


def uniforms_of_groups(seeds: Int[Tensor, " rows"], size: int) -> Float[Tensor, "rows size 2"]:
    """The two random numbers in (0, 1) of each draw of a group: what `sample` and the kernels read.

    Parameters
    ----------
    seeds : int64 Tensor [rows]
        One seed per row.
    size : int
        Draws per row.

    Returns
    -------
    Tensor [rows, size, 2]
        Uniform in (0, 1).

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.uniforms_of_groups(torch.tensor([0, 1]), 3).shape
    torch.Size([2, 3, 2])
    """
    return uniforms(seeds, 2 * size).reshape(-1, size, 2)


def drawn(keys: Float[Tensor, "rows candidates"], numbers: Float[Tensor, "rows size 2"]) -> Int[Tensor, "rows size"]:
    """Candidates drawn in proportion to exp(key), without replacement.

    Blocks are the lanes of the Triton kernel: lane l holds 8 neighbouring candidates of every stretch of lanes * 8. The
    same numbers then give the same group there.
    """
    rows, candidates = keys.shape
    lanes = min(_LANES, max(16, 1 << (-(-candidates // 8) - 1).bit_length()))
    stretches = -(-candidates // (lanes * 8))
    padded = torch.nn.functional.pad(keys, (0, stretches * lanes * 8 - candidates), value=_TAKEN)
    left = padded.reshape(rows, stretches, lanes, 8).transpose(1, 2).reshape(rows, lanes, stretches * 8)
    top = left.amax(-1)
    mass = (left - top.unsqueeze(-1)).exp().sum(-1)
    row, chosen = torch.arange(rows, device=keys.device), []
    for first, second in (pair.unbind(-1) for pair in numbers.unbind(1)):
        lane = _pick(mass * (top - top.amax(-1, keepdim=True)).exp(), first)
        inner = left[row, lane]
        place = _pick((inner - inner.amax(-1, keepdim=True)).exp(), second)
        chosen.append(place // 8 * (lanes * 8) + lane * 8 + place % 8)
        inner = inner.scatter(-1, place.unsqueeze(-1), _TAKEN)
        left[row, lane] = inner
        rest = inner.amax(-1)
        top = top.scatter(-1, lane.unsqueeze(-1), rest.unsqueeze(-1))
        mass = mass.scatter(-1, lane.unsqueeze(-1), (inner - rest.unsqueeze(-1)).exp().sum(-1, keepdim=True))
    return torch.stack(chosen, -1)


def _pick(weights: Float[Tensor, "rows parts"], uniform: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """A part drawn in proportion to its weight; the largest where rounding leaves none."""
    reached = (weights.cumsum(-1) > uniform.unsqueeze(-1) * weights.sum(-1, keepdim=True)) & (weights > 0)
    return torch.where(reached.any(-1), reached.int().argmax(-1), weights.argmax(-1))
