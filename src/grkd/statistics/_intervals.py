"""How sure a metric is: intervals of means, shares, ratios and other statistics."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grkd.statistics._resampling import (
    check_level,
    check_resamples,
    group_sums,
    half_width,
    one_axis,
    paired,
    percentiles,
    ratio,
    resampled_ratios,
)


class Interval(NamedTuple):
    """A mean and the bounds of its interval, in the values' own unit."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """{"value", "low", "high"}, NaN as None."""
        value, low, high = (None if math.isnan(number) else float(number) for number in self)
        return {"value": value, "low": low, "high": high}


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    share: bool = False,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` ([examples]); NaN values are left out.

    groups: an id for each value (its prompt, say). Whole groups are drawn, since values of one group vary together and
    drawing them one by one gives an interval that is too narrow. Every value weighs the same: the mean of a resample
    is the sum over its values divided by their number. None: every value is its own group.
    share: values are in [0, 1]. If all are 0 or all are 1, so are all resamples: the bounds are then Wilson's, of as
    many trials as groups, since 10 of 10 right is not certainty.
    No value: all NaN. A single group: NaN bounds. The same seed gives the same interval.
    Raises ValueError for a level outside (0, 1), resamples below 1, or groups of another length.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13; the cluster bootstrap of
    Davison & Hinkley, "Bootstrap Methods and their Application" (1997), sec. 3.8.
    """
    sums, sizes = group_sums(one_axis(values), groups)
    found = bootstrap_ratio(sums, sizes, level=level, resamples=resamples, seed=seed)
    if share and sizes.size > 1 and found.mean in (0.0, 1.0):
        return wilson_interval(round(found.mean * sizes.size), sizes.size, level=level)
    return found


def bootstrap_ratio(
    sums: ArrayLike, sizes: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of sum(sums) / sum(sizes), rows drawn together: a mean from each group's sum.

    As bootstrap_interval with one row per group: sums [groups] of the values, sizes [groups] how many there are.
    Rows of size 0 are left out. Raises ValueError as bootstrap_interval, and for lengths that differ.
    """
    check_level(level)
    top, bottom = paired(sums, sizes)
    rows = [(top[bottom > 0], bottom[bottom > 0])]
    low, high = percentiles(resampled_ratios(rows, resamples, seed)[0], level)
    return Interval(ratio(*rows[0]), low, high)


def bootstrap_statistic(
    measure: Callable[[NDArray[np.int64]], float],
    size: int,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    least: float | None = None,
) -> Interval:
    """Percentile bootstrap interval of a metric that is not a mean of the examples (a calibration error, say).

    measure: the metric from the indices of the examples drawn, in [0, size); it is called on each resample, and on
    0 .. size - 1 for the value itself. NaN resamples are left out. Fewer than two examples: NaN bounds.
    least: of a metric that noise makes larger, so that all resamples may lie above the value, its least possible value:
    mean(resamples) - value is then taken off the bounds, which end at `least`.
    Raises ValueError for a level outside (0, 1) or resamples below 1.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13.
    """
    check_level(level)
    check_resamples(resamples)
    value = float(measure(np.arange(size))) if size else math.nan
    if size < 2:
        return Interval(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    found = np.array([measure(generator.integers(size, size=size)) for _ in range(resamples)], dtype=np.float64)
    found = found[~np.isnan(found)]
    low, high = percentiles(found, level)
    if least is not None and found.size:
        bias = float(found.mean()) - value
        low, high = max(least, low - bias), max(least, high - bias)
    return Interval(value, low, high)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: successes / trials and its bounds, in [0, 1]; no trial: all NaN.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z the normal quantile of (1 + level) / 2.
    Unlike the interval of the mean it has a width where no item or every item is right.
    Raises ValueError for a level outside (0, 1) or successes outside [0, trials].
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    check_level(level)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and the {trials} trials, got {successes}")
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    from scipy import stats  # takes a second

    bounds = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high))


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds (`values`: one result per seed).

    mean -+ t_{(1 + level) / 2, n - 1} * s / sqrt(n), s with n - 1 in its denominator.
    A single seed: NaN bounds, since one run says nothing about the spread. A NaN result (a run that failed) makes
    all three NaN: dropping it would flatter the method. No value: all NaN.
    Raises ValueError for a level outside (0, 1).
    """
    check_level(level)
    numbers = one_axis(values)
    if not numbers.size:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(numbers.mean())
    half = half_width(numbers, level)
    return Interval(mean, mean - half, mean + half)
