"""The search of the comparison on lists: 12 trials per method on an endless grid, or more, the same rule for all."""

import itertools
from collections.abc import Mapping, Sequence

TRIALS = 12
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SETTINGS = tuple(2.0**power for power in range(-7, 9))
_FIRST_RATES = (0.003, 0.03, 0.3)
Point = tuple[int, int]  # places of the learning rate in RATES and of the method's option in SETTINGS


def first_points(settings: Sequence[float]) -> list[Point]:
    """The coarse pass: three learning rates, a factor of ten apart, at each of the settings."""
    return [(RATES.index(rate), SETTINGS.index(one)) for rate, one in itertools.product(_FIRST_RATES, settings)]


def next_points(done: Mapping[Point, float], first: Sequence[Point], most: int = TRIALS) -> list[Point]:
    """The points to try next, given the values of those tried; none after TRIALS of them.

    First the coarse pass; then whatever was not tried of the best point's four neighbours; then of its diagonal ones.
    If not all fit, those with the best neighbours of their own come first. most: above TRIALS, a search whose best
    point stands at an edge of what was tried goes on until it does not, up to so many trials.
    """
    if not done:
        return list(first)[:TRIALS]
    left = (TRIALS if len(done) < TRIALS or settled(done) else most) - len(done)
    best = max(done, key=done.__getitem__)
    new = [one for one in beside(best) if one not in done] or [one for one in _diagonal(best) if one not in done]
    return sorted(new, key=lambda one: -_expected(one, done))[: max(0, left)]


def settled(done: Mapping[Point, float]) -> bool:
    """Whether the best point's neighbours in both directions were tried: it is at no edge of what was tried."""
    return all(one in done for one in beside(max(done, key=done.__getitem__)))


def beside(point: Point) -> list[Point]:
    """Neighbours on the grid: the next lower and higher learning rate, the next lower and higher setting."""
    rate, setting = point
    return _on_grid([(rate - 1, setting), (rate + 1, setting), (rate, setting - 1), (rate, setting + 1)])


def _diagonal(point: Point) -> list[Point]:
    return _on_grid([(point[0] + a, point[1] + b) for a, b in itertools.product((-1, 1), repeat=2)])


def _on_grid(points: Sequence[Point]) -> list[Point]:
    return [one for one in points if 0 <= one[0] < len(RATES) and 0 <= one[1] < len(SETTINGS)]


def _expected(point: Point, done: Mapping[Point, float]) -> float:
    """Mean value of the tried neighbours."""
    known = [done[one] for one in beside(point) if one in done]
    return sum(known) / len(known) if known else float("-inf")
