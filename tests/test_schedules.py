"""alpha over training: the three shapes, their ends, and what is refused."""

import itertools
import math

import pytest

from grkd import schedules


@pytest.mark.parametrize(
    ("shape", "progress", "expected"),
    [
        ("linear", 0.0, 0.0),
        ("linear", 0.25, 0.25),
        ("linear", 1.0, 1.0),
        ("cosine", 0.0, 0.0),
        ("cosine", 0.25, (1 - math.sqrt(0.5)) / 2),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 1.0),
        ("constant", 0.0, 1.0),
        ("constant", 0.7, 1.0),
    ],
)
@pytest.mark.parametrize("ceiling", [1.0, 0.4, 0.0])
def test_values(shape: str, progress: float, expected: float, ceiling: float) -> None:
    assert schedules.alpha(progress, shape=shape, ceiling=ceiling) == pytest.approx(ceiling * expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_rises_strictly(shape: str) -> None:
    values = [schedules.alpha(step / 20, shape=shape) for step in range(21)]
    assert all(later > earlier for earlier, later in itertools.pairwise(values))


def test_shapes_lists_every_shape() -> None:
    assert schedules.SHAPES == ("linear", "cosine", "constant")


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        schedules.alpha(progress)


@pytest.mark.parametrize("ceiling", [-0.01, 1.01, math.nan])
def test_ceiling_outside_is_refused(ceiling: float) -> None:
    with pytest.raises(ValueError, match="ceiling"):
        schedules.alpha(0.5, ceiling=ceiling)


def test_unknown_shape_is_refused() -> None:
    # The type checker of the tests refuses it first; without it, the function does. Both are ValueError or TypeError.
    with pytest.raises((ValueError, TypeError), match="stairs"):
        schedules.alpha(0.5, shape="stairs")


def test_progress_starts_at_0_and_ends_at_1() -> None:
    assert [schedules.progress_at(step, 5) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_progress_past_the_end_stays_1_and_a_single_step_is_0() -> None:
    assert schedules.progress_at(9, 5) == 1.0
    assert schedules.progress_at(0, 1) == 0.0


@pytest.mark.parametrize(("step", "total"), [(0, 0), (-1, 5)])
def test_impossible_steps_are_refused(step: int, total: int) -> None:
    with pytest.raises(ValueError, match="step"):
        schedules.progress_at(step, total)
