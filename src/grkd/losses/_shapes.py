"""The check that every loss of two score tensors begins with."""

from torch import Tensor


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError for scores of different shapes: nothing is broadcast."""
    if student.shape != teacher.shape:
        raise ValueError(f"student scores have shape {tuple(student.shape)}, teacher scores {tuple(teacher.shape)}")
