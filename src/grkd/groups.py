"""What a group is: which candidates are in it, and which pairs the teacher orders.

Scores have the shape [rows, candidates] (any number of leading axes works); a mask is True where a candidate exists.
Everything here is computed in at least float32: scores rounded to bf16 would make ties that the teacher does not have.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.errors import UserError

Choice = Literal["all", "top", "sample"]
CHOICES: tuple[str, ...] = get_args(Choice)


@dataclass(frozen=True)
class Group:
    """Candidates chosen for each row: `indices` into the candidates, `mask` False where a row had too few."""

    indices: Int[Tensor, "*rows group"]
    mask: Bool[Tensor, "*rows group"]


def wide(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float32, or in float64 where they are float64 already."""
    return scores if scores.dtype == torch.float64 else scores.float()


def checked_mask(mask: Tensor | None, scores: Float[Tensor, "*rows candidates"]) -> Bool[Tensor, "*rows candidates"]:
    """The mask as bool, all True where None.

    Raises ValueError for a shape other than the scores' (a mask never broadcasts) and for a floating-point mask
    (which is more often an additive 0/-inf mask than a selection).
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
    """Pairs (i, j) that the teacher orders: P = {(i, j) : t_i > t_j}, both unmasked.

    Equal teacher scores make no pair. Entry [..., i, j] is True where i is preferred.
    Raises ValueError for a mask of another shape. Source: arXiv 2504.20482.
    """
    exists = checked_mask(mask, teacher_scores)
    scores = wide(teacher_scores)
    ordered = scores.unsqueeze(-1) > scores.unsqueeze(-2)
    return ordered & exists.unsqueeze(-1) & exists.unsqueeze(-2)


def has_pair(teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Bool[Tensor, "*rows"]:
    """Rows in which the teacher orders at least one pair: its unmasked scores are not all equal."""
    exists = checked_mask(mask, teacher_scores)
    scores = wide(teacher_scores)
    highest = scores.masked_fill(~exists, -torch.inf).amax(-1)
    return highest > scores.masked_fill(~exists, torch.inf).amin(-1)


def top(teacher_scores: Float[Tensor, "*rows candidates"], size: int, *, mask: Tensor | None = None) -> Group:
    """The `size` candidates that the teacher scores highest, best first.

    Raises UserError where size is below 2 or above the number of candidates, ValueError for a mask of another shape.
    """
    return _largest(wide(teacher_scores), size, checked_mask(mask, teacher_scores))


def sample(
    teacher_scores: Float[Tensor, "*rows candidates"],
    size: int,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Group:
    """`size` candidates drawn from softmax(t / temperature) without replacement.

    Gumbel top-G: the G largest of t_k / temperature + g_k, g_k = -log(-log u_k), u_k uniform on (0, 1).
    The generator (on the scores' device) makes the draw repeatable; None draws from torch's global state.
    Raises UserError where size is below 2 or above the number of candidates or temperature <= 0,
    ValueError for a mask of another shape.
    Source: arXiv 2504.20482 ("sample outputs under temperature T"; without replacement is our reading);
    Gumbel top-k: Kool et al., arXiv 1903.06059.
    """
    if not temperature > 0:
        raise UserError(f"temperature of the group must be above 0, got {temperature}")
    scores = wide(teacher_scores)
    # -log u is exponential and its -log is Gumbel. u = 0 is raised to the least number, where the key is low: the other
    # form, -log(1 - u), would let one entry in 2^24 win whatever its score (and exponential_ is slower).
    uniform = torch.rand(scores.shape, generator=generator, dtype=scores.dtype, device=scores.device)
    noise = -uniform.clamp_min_(torch.finfo(scores.dtype).tiny).log()
    return _largest(scores / temperature - noise.log(), size, checked_mask(mask, teacher_scores))


def choose(
    teacher_scores: Float[Tensor, "*rows candidates"],
    choice: Choice,
    *,
    size: int | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Group | None:
    """The group by name: "all" (None: nothing to gather), "top" or "sample".

    Raises UserError for an unknown choice or a missing size, and what `top` and `sample` raise.
    """
    if choice == "all":
        return None
    if choice not in CHOICES:
        raise UserError(f"unknown group {choice!r}; known: {', '.join(CHOICES)}")
    if size is None:
        raise UserError(f"group {choice!r} needs a group_size")
    if choice == "top":
        return top(teacher_scores, size, mask=mask)
    return sample(teacher_scores, size, temperature=temperature, mask=mask, generator=generator)


def _largest(keys: Tensor, size: int, exists: Tensor) -> Group:
    candidates = keys.shape[-1]
    if not 2 <= size <= candidates:
        raise UserError(f"group_size must be between 2 and the {candidates} candidates, got {size}")
    indices = keys.masked_fill(~exists, -torch.inf).topk(size, dim=-1).indices
    return Group(indices, exists.gather(-1, indices))
