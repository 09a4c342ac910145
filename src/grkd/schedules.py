"""How the weight alpha of the group relative loss moves over training."""

import math
from typing import Literal, get_args

Shape = Literal["linear", "cosine", "constant"]
SHAPES: tuple[str, ...] = get_args(Shape)


def alpha(progress: float, *, shape: Shape = "linear", ceiling: float = 1.0) -> float:
    """Weight of the group relative loss at a point of training; soft targets get 1 - alpha.

        linear: ceiling * p;  cosine: ceiling * (1 - cos(pi p)) / 2;  constant: ceiling at every p

    Parameters
    ----------
    progress : float
        p: 0 at the first optimiser step, 1 at the last.
    shape : {"linear", "cosine", "constant"}
        How alpha moves.
    ceiling : float
        In [0, 1]; 1 is the paper's.

    Returns
    -------
    float
        In [0, ceiling].

    Raises
    ------
    ValueError
        For an unknown shape or a value outside [0, 1].

    References
    ----------
    arXiv 2504.20482, "gradually increases from 0 to 1"; linear is our reading.

    Examples
    --------
    >>> from grkd import schedules
    >>> schedules.alpha(0.5, ceiling=0.8)
    0.4
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress must be in [0, 1], got {progress}")
    if not 0.0 <= ceiling <= 1.0:
        raise ValueError(f"ceiling of alpha must be in [0, 1], got {ceiling}")
    if shape == "linear":
        return ceiling * progress
    if shape == "cosine":
        return ceiling * (1.0 - math.cos(math.pi * progress)) / 2.0
    if shape == "constant":
        return ceiling
    raise ValueError(f"unknown shape of alpha {shape!r}; known: {', '.join(SHAPES)}")


def progress_at(step: int, total_steps: int) -> float:
    """Progress of an optimiser step through training; a single step counts as 0.

    Parameters
    ----------
    step : int
        Number of the step, from 0.
    total_steps : int
        Steps of the training.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        For total_steps below 1 or a negative step.

    Examples
    --------
    >>> from grkd import schedules
    >>> schedules.progress_at(5, 11)
    0.5
    """
    if total_steps < 1 or step < 0:
        raise ValueError(f"need total_steps >= 1 and step >= 0, got step {step} of {total_steps}")
    return min(1.0, step / (total_steps - 1)) if total_steps > 1 else 0.0
