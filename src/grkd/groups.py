"""What a group is: which candidates are in it, and which pairs the teacher orders.

Scores have the shape [rows, candidates] (any number of leading axes works); a mask is True where a candidate exists.
Everything here is computed in at least float32: scores rounded to bf16 would make ties that the teacher does not have.
Over 300 lines: half of them are the docstrings of the public functions.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.draws import uniforms
from grkd.errors import UserError

Choice = Literal["all", "top", "sample"]
CHOICES: tuple[str, ...] = get_args(Choice)

_LANES = 512
# Scores below all others: of candidates that do not exist, and of those that are drawn already. Not -inf, whose
# difference with itself is NaN.
_MASKED, _TAKEN = -1e30, -2e30


@dataclass(frozen=True)
class Group:
    """Candidates chosen for each row.

    Parameters
    ----------
    indices : int Tensor [*rows, group]
        Places among the candidates.
    mask : bool Tensor [*rows, group]
        False if a row had too few candidates.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.top(torch.tensor([[1.0, 3.0, 2.0]]), 2).mask
    tensor([[True, True]])
    """

    indices: Int[Tensor, "*rows group"]
    mask: Bool[Tensor, "*rows group"]


def wide(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float32, or in float64 if they are float64 already.

    Parameters
    ----------
    scores : Tensor
        Of any shape and floating-point type.

    Returns
    -------
    Tensor
        The same values.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.wide(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return scores if scores.dtype == torch.float64 else scores.float()


def checked_mask(mask: Tensor | None, scores: Float[Tensor, "*rows candidates"]) -> Bool[Tensor, "*rows candidates"]:
    """The mask as bool, all True if it is None.

    Parameters
    ----------
    mask : Tensor or None
        True where a candidate exists.
    scores : Tensor [*rows, candidates]
        The scores that it belongs to.

    Returns
    -------
    bool Tensor [*rows, candidates]
        The mask.

    Raises
    ------
    ValueError
        For a shape other than the scores' (a mask never broadcasts), and for a floating-point mask (which is more
        often an additive 0/-inf mask than a selection).

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.checked_mask(None, torch.zeros(1, 3))
    tensor([[True, True, True]])
    """
    if mask is None:
        return torch.ones_like(scores, dtype=torch.bool)
    if mask.shape != scores.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, scores have {tuple(scores.shape)}; they must be equal")
    if mask.is_floating_point():
        raise ValueError(f"mask must be bool (True = the candidate exists), got {mask.dtype}")
    return mask.bool()


def pairs(
    teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None
) -> Bool[Tensor, "*rows candidates candidates"]:
    """Pairs (i, j) that the teacher orders.

        P = {(i, j) : t_i > t_j, both unmasked}

    Equal teacher scores make no pair.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    bool Tensor [*rows, candidates, candidates]
        Entry [..., i, j] is True if i is preferred to j.

    Raises
    ------
    ValueError
        For a mask of another shape.

    References
    ----------
    arXiv 2504.20482.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.pairs(torch.tensor([2.0, 1.0, 1.0])).int()
    tensor([[0, 1, 1],
            [0, 0, 0],
            [0, 0, 0]], dtype=torch.int32)
    """
    exists = checked_mask(mask, teacher_scores)
    scores = wide(teacher_scores)
    ordered = scores.unsqueeze(-1) > scores.unsqueeze(-2)
    return ordered & exists.unsqueeze(-1) & exists.unsqueeze(-2)


def has_pair(teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Bool[Tensor, "*rows"]:
    """Rows in which the teacher orders at least one pair: its unmasked scores are not all equal.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    bool Tensor [*rows]
        True for rows with a pair.

    Raises
    ------
    ValueError
        For a mask of another shape.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.has_pair(torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    tensor([ True, False])
    """
    exists = checked_mask(mask, teacher_scores)
    scores = wide(teacher_scores)
    highest = scores.masked_fill(~exists, -torch.inf).amax(-1)
    return highest > scores.masked_fill(~exists, torch.inf).amin(-1)


def top(teacher_scores: Float[Tensor, "*rows candidates"], size: int, *, mask: Tensor | None = None) -> Group:
    """The candidates that the teacher scores highest, best first.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    size : int
        Candidates per group, from 2 to the number of candidates.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    Group
        `size` candidates per row.

    Raises
    ------
    UserError
        For a size out of range.
    ValueError
        For a mask of another shape.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.top(torch.tensor([[1.0, 5.0, 3.0]]), 2).indices
    tensor([[1, 2]])
    """
    return _largest(wide(teacher_scores), size, checked_mask(mask, teacher_scores))


def sample(
    teacher_scores: Float[Tensor, "*rows candidates"],
    size: int,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    seeds: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Group:
    """Candidates drawn one after the other from softmax(t / temperature), without replacement.

    Two random numbers per draw: a block of candidates by its mass, then a candidate of the block. Masses are relative
    to the largest score that is left, so draws far below the top are right too.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    size : int
        Candidates per group, from 2 to the number of candidates.
    temperature : float
        Divides the scores before they are drawn from; above 0.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    seeds : int64 Tensor [*rows], optional
        One seed per row: the row's draw is a function of its seed and scores alone.
    generator : torch.Generator, optional
        On the scores' device; makes the draw repeatable if there are no seeds. None: torch's global state.

    Returns
    -------
    Group
        `size` candidates per row, in the order of the draws.

    Raises
    ------
    UserError
        For a size out of range, or a temperature that is not above 0.
    ValueError
        For a mask or seeds of another shape.

    References
    ----------
    arXiv 2504.20482 ("sample outputs under temperature T"; without replacement is our reading).

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> group = groups.sample(torch.tensor([[9.0, 0.0, 9.0, 0.0]]), 2, seeds=torch.tensor([0]))
    >>> group.indices.sort().values  # the two likely ones
    tensor([[0, 2]])
    """
    if not temperature > 0:
        raise UserError(f"temperature of the group must be above 0, got {temperature}")
    scores, exists = wide(teacher_scores), checked_mask(mask, teacher_scores)
    _check_size(size, scores.shape[-1])
    rows = scores.shape[:-1]
    if seeds is not None and seeds.shape != rows:
        raise ValueError(f"seeds have shape {tuple(seeds.shape)}, the rows {tuple(rows)}; they must be equal")
    numbers = _uniforms(rows.numel(), size, seeds, generator, scores.device)
    keys = (scores / temperature).masked_fill(~exists, _MASKED).reshape(-1, scores.shape[-1])
    indices = _drawn(keys, numbers.to(scores.dtype)).reshape(*rows, size)
    return Group(indices, exists.gather(-1, indices))


def choose(
    teacher_scores: Float[Tensor, "*rows candidates"],
    choice: Choice,
    *,
    size: int | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    seeds: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Group | None:
    """The group by the name of its choice.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    choice : {"all", "top", "sample"}
        Which candidates.
    size : int, optional
        Candidates per group; not for "all".
    temperature : float
        Divides the scores before they are drawn from; above 0.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    seeds : int64 Tensor [*rows], optional
        One seed per row: the row's draw is a function of its seed and scores alone.
    generator : torch.Generator, optional
        On the scores' device; makes the draw repeatable if there are no seeds. None: torch's global state.

    Returns
    -------
    Group or None
        None for "all": there is nothing to gather.

    Raises
    ------
    UserError
        For an unknown choice, a missing size, and what `top` and `sample` refuse.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.choose(torch.tensor([[1.0, 5.0, 3.0]]), "top", size=2).indices
    tensor([[1, 2]])
    """
    if choice == "all":
        return None
    if choice not in CHOICES:
        raise UserError(f"unknown group {choice!r}; known: {', '.join(CHOICES)}")
    if size is None:
        raise UserError(f"group {choice!r} needs a group_size")
    if choice == "top":
        return top(teacher_scores, size, mask=mask)
    return sample(teacher_scores, size, temperature=temperature, mask=mask, seeds=seeds, generator=generator)


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


def _uniforms(
    rows: int, size: int, seeds: Tensor | None, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "rows size 2"]:
    if seeds is not None:
        return uniforms_of_groups(seeds.reshape(-1), size)
    return torch.rand(rows, size, 2, generator=generator, device=device)


def _drawn(keys: Float[Tensor, "rows candidates"], numbers: Float[Tensor, "rows size 2"]) -> Int[Tensor, "rows size"]:
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


def _check_size(size: int, candidates: int) -> None:
    if not 2 <= size <= candidates:
        raise UserError(f"group_size must be between 2 and the {candidates} candidates, got {size}")


def _largest(keys: Tensor, size: int, exists: Tensor) -> Group:
    _check_size(size, keys.shape[-1])
    indices = keys.masked_fill(~exists, -torch.inf).topk(size, dim=-1).indices
    return Group(indices, exists.gather(-1, indices))
