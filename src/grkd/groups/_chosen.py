"""The candidates of a group: the teacher's top, or a sample of its distribution."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.errors import UserError
from grkd.groups._draws import MASKED, drawn, uniforms_of_groups
from grkd.groups._scores import checked_mask, wide

Choice = Literal["all", "top", "sample"]
CHOICES: tuple[str, ...] = get_args(Choice)


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
    scores, exists = wide(teacher_scores), checked_mask(mask, teacher_scores)
    _check_size(size, scores.shape[-1])
    indices = scores.masked_fill(~exists, -torch.inf).topk(size, dim=-1).indices
    return Group(indices, exists.gather(-1, indices))


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
    if seeds is not None:
        numbers = uniforms_of_groups(seeds.reshape(-1), size)
    else:
        numbers = torch.rand(rows.numel(), size, 2, generator=generator, device=scores.device)
    # A score of -inf is a probability of 0; its difference with another would be NaN.
    keys = (scores / temperature).masked_fill(~exists, MASKED).clamp_min(MASKED).reshape(-1, scores.shape[-1])
    indices = drawn(keys, numbers.to(scores.dtype)).reshape(*rows, size)
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


def _check_size(size: int, candidates: int) -> None:
    if not 2 <= size <= candidates:
        raise UserError(f"group_size must be between 2 and the {candidates} candidates, got {size}")
