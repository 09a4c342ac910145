"""How sure a mean is: bootstrap over examples, Student's t over seeds, paired comparison of two methods.

Bounds that the data cannot give (a single seed, a single group) are NaN, never a made-up zero width.
JSON has no NaN: write it as null.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

# Draws of one batch of bootstrap resamples (8 bytes each, a few such arrays live at once).
_DRAWS = 1 << 22


class Interval(NamedTuple):
    """A mean and the bounds of its interval, in the values' own unit."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a - b, the bounds of its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` ([examples]); NaN values are left out.

    groups: an id for each value (its prompt, say). Whole groups are drawn, since values of one group vary together and
    drawing them one by one gives an interval that is too narrow. Every value weighs the same: the mean of a resample
    is the sum over its values divided by their number. None: every value is its own group.
    No value: all NaN. A single group: NaN bounds. The same seed gives the same interval.
    Raises ValueError for a level outside (0, 1), resamples below 1, or groups of another length.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13; the cluster bootstrap of
    Davison & Hinkley, "Bootstrap Methods and their Application" (1997), sec. 3.8.
    """
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    numbers = _one_axis(values)
    known = ~np.isnan(numbers)
    ids = np.arange(numbers.size) if groups is None else np.asarray(groups)
    if ids.shape != numbers.shape:
        raise ValueError(f"groups have shape {ids.shape}, values {numbers.shape}; one group id a value")
    _, members = np.unique(ids[known], return_inverse=True)
    sums = np.bincount(members, weights=numbers[known]).astype(np.float64)
    sizes = np.bincount(members)
    if not sums.size:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(sums.sum() / sizes.sum())
    if sums.size == 1:
        return Interval(mean, math.nan, math.nan)
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled_means(sums, sizes, resamples, seed), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds (`values`: one result a seed).

    mean -+ t_{(1 + level) / 2, n - 1} * s / sqrt(n), s with n - 1 in its denominator.
    A single seed: NaN bounds, since one run says nothing about the spread. A NaN result (a run that failed) makes
    all three NaN: dropping it would flatter the method. No value: all NaN.
    Raises ValueError for a level outside (0, 1).
    """
    _check_level(level)
    numbers = _one_axis(values)
    if not numbers.size:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(numbers.mean())
    half = _half_width(numbers, level)
    return Interval(mean, mean - half, mean + half)


def paired_t(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Paired t test of a - b, the entries paired by seed (or by example): difference, its interval, two-sided p.

    d = mean(a - b); interval d -+ t_{(1 + level) / 2, n - 1} * s / sqrt(n); p = P(|T_{n-1}| >= |d| sqrt(n) / s).
    A single pair: NaN bounds and p. Differences that are all the same, but for rounding: bounds equal to d and p NaN,
    since t is undefined (two methods that tie exactly on every seed are no evidence for either).
    Raises ValueError for a level outside (0, 1) or lengths that differ.
    """
    _check_level(level)
    first, second = _one_axis(a), _one_axis(b)
    if first.shape != second.shape:
        raise ValueError(f"paired results need equal lengths, got {first.size} and {second.size}")
    if not first.size:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan)
    differences = first - second
    difference = float(differences.mean())
    rounding = 8 * np.finfo(np.float64).eps * max(np.abs(first).max(), np.abs(second).max())
    if differences.size > 1 and np.ptp(differences) <= rounding:
        return PairedDifference(difference, difference, difference, math.nan)
    half = _half_width(differences, level)
    p = float(stats.ttest_rel(first, second).pvalue) if differences.size > 1 else math.nan
    return PairedDifference(difference, difference - half, difference + half, p)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    batch = max(1, _DRAWS // sums.size)
    means = []
    for start in range(0, resamples, batch):
        drawn = generator.integers(sums.size, size=(min(batch, resamples - start), sums.size))
        means.append(sums[drawn].sum(-1) / sizes[drawn].sum(-1))
    return np.concatenate(means)


def _half_width(numbers: NDArray[np.float64], level: float) -> float:
    if numbers.size < 2:
        return math.nan
    quantile = stats.t.ppf((1 + level) / 2, numbers.size - 1)
    return float(quantile * numbers.std(ddof=1) / math.sqrt(numbers.size))


def _one_axis(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"values must have one axis, got shape {numbers.shape}")
    return numbers


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
