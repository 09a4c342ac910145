"""The checks that losses begin with."""

from typing import Literal, get_args

from torch import Tensor

from grkd.errors import UserError

Normalize = Literal["pairs", "candidates"]


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError for scores of different shapes: nothing is broadcast."""
    if student.shape != teacher.shape:
        raise ValueError(f"student scores have shape {tuple(student.shape)}, teacher scores {tuple(teacher.shape)}")


def check_scale(name: str, value: float) -> None:
    """Raises UserError for a temperature or another scale that is not above 0."""
    if not value > 0:
        raise UserError(f"{name} must be above 0, got {value}")


def check_pairs(tau: float, normalize: str) -> None:
    """Raises UserError for options of pairs out of range."""
    check_scale("tau", tau)
    if normalize not in get_args(Normalize):
        raise UserError(f"unknown normalize {normalize!r}; known: {', '.join(get_args(Normalize))}")
