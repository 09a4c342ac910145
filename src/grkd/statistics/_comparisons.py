"""Paired comparisons of two models or methods, and the correction for several of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grkd.statistics._resampling import (
    check_level,
    group_sums,
    half_width,
    one_axis,
    paired,
    ratio,
    resampled_ratios,
)


class PairedDifference(NamedTuple):
    """Mean of a - b, the bounds of its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


class McNemar(NamedTuple):
    """How many items only a and only b got right, and the exact two-sided p-value of no difference."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test of two models on the same items: a[i] and b[i] say whether item i is right (0 or 1).

    Only items on which the models differ count. With n of them, of which k are a's: the two-sided binomial test of k
    in n at 1/2, p = min(1, 2 P(X <= min(k, n - k))). No such item: p = 1.
    Raises ValueError for lengths that differ or values other than 0 and 1.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947), in its exact form.
    """
    first, second = paired(a, b)
    if not np.isin([first, second], (0, 1)).all():
        raise ValueError("McNemar's test takes 0 (wrong) and 1 (right) for every item")
    only_a, only_b = int((first > second).sum()), int((second > first).sum())
    from scipy import stats  # takes a second

    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values, in the order given: those at most 0.05 are significant at 5 % over the whole family.

    p sorted rising, p_(1) .. p_(m): adjusted p_(i) = min(1, max over j <= i of (m - j + 1) p_(j)).
    NaN (a test that could not be made) stays NaN and does not count in m.
    Raises ValueError for a p-value outside [0, 1].
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    numbers = one_axis(p_values)
    known = np.flatnonzero(~np.isnan(numbers))
    if ((numbers[known] < 0) | (numbers[known] > 1)).any():
        raise ValueError(f"p-values must be between 0 and 1, got {numbers.tolist()}")
    rising = known[np.argsort(numbers[known], kind="stable")]
    steps = np.arange(rising.size, 0, -1) * numbers[rising]
    adjusted = np.full(numbers.shape, math.nan)
    adjusted[rising] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Bootstrap comparison of two models on the same items: mean of a - b, its percentile interval, two-sided p.

    d*: the mean of a - b over a resample of the items (over whole groups where `groups` gives each item's, as in
    bootstrap_interval). The interval is the expanded percentile interval: of n items or groups it cuts off
    Phi(-sqrt(n / (n - 1)) t_{(1 + level) / 2, n - 1}) at either end, since resamples of a few items vary too little.
    p = 2 P(T_{n-1} < sqrt((n - 1) / n) Phi^-1(q)), q = min(1 + #{d* <= 0}, 1 + #{d* >= 0}) / (resamples + 1): below
    1 - level where the interval leaves out 0; but never below 2^(1 - n), the chance that all n differences have
    one sign if there is none to find. Items for which either value is NaN are left out.
    No item: all NaN. A single item or group: NaN bounds and p.
    Raises ValueError for a level outside (0, 1), resamples below 1, lengths that differ, or groups of another length.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), sec. 13.3 and 15.4; the expansion:
    Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015), sec. 5.3.
    """
    check_level(level)
    first, second = paired(a, b)
    sums, sizes = group_sums(first - second, groups)
    (resampled,) = resampled_ratios([(sums, sizes)], resamples, seed)
    return _tested(ratio(sums, sizes), resampled, level, items=sums.size)


def paired_bootstrap_ratio(
    a_sums: ArrayLike,
    a_sizes: ArrayLike,
    b_sums: ArrayLike,
    b_sizes: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """As paired_bootstrap, for metrics whose items weigh differently in each model: the difference of two ratios.

    sum(a_sums) / sum(a_sizes) - sum(b_sums) / sum(b_sizes), the same rows drawn for both: item i has a_sizes[i] values
    (battles, ratings, tokens) that add up to a_sums[i]. Rows where either size is 0 are left out. With all sizes 1 it
    is paired_bootstrap itself. Raises ValueError as that one.
    """
    columns = [(a_sums, a_sizes, b_sums, b_sizes)]
    (found,) = paired_bootstrap_ratios(columns, level=level, resamples=resamples, seed=seed)
    return found


def paired_bootstrap_ratios(
    columns: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[PairedDifference]:
    """paired_bootstrap_ratio of each (a_sums, a_sizes, b_sums, b_sizes), to the last bit, but faster.

    Figures with as many rows share their draws, which are what takes the time. Raises ValueError as that one.
    """
    check_level(level)
    known = [_rows_of_both(*column) for column in columns]
    resampled: dict[int, NDArray[np.float64]] = {}
    for rows in {first[0].size for first, _ in known}:
        ratios: dict[int, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        for number, (first, second) in enumerate(known):
            if first[0].size == rows:
                alike = np.array_equal(first[1], second[1])  # then one ratio is enough
                ratios[number] = [(first[0] - second[0], first[1])] if alike else [first, second]
        found = iter(resampled_ratios([one for parts in ratios.values() for one in parts], resamples, seed))
        for number, parts in ratios.items():
            resampled[number] = next(found) if len(parts) == 1 else next(found) - next(found)
    return [
        _tested(ratio(*first) - ratio(*second), resampled[number], level, items=first[0].size)
        for number, (first, second) in enumerate(known)
    ]


def paired_t(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Paired t test of a - b, the entries paired by seed (or by example): difference, its interval, two-sided p.

    d = mean(a - b); interval d -+ t_{(1 + level) / 2, n - 1} * s / sqrt(n); p = P(|T_{n-1}| >= |d| sqrt(n) / s).
    A single pair: NaN bounds and p. Differences that are all the same, but for rounding: bounds equal to d and p NaN,
    since t is undefined (two methods that tie exactly on every seed are no evidence for either).
    Raises ValueError for a level outside (0, 1) or lengths that differ.
    """
    check_level(level)
    first, second = paired(a, b)
    if not first.size:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan)
    differences = first - second
    difference = float(differences.mean())
    rounding = 8 * np.finfo(np.float64).eps * max(np.abs(first).max(), np.abs(second).max())
    if differences.size > 1 and np.ptp(differences) <= rounding:
        return PairedDifference(difference, difference, difference, math.nan)
    half = half_width(differences, level)
    from scipy import stats  # takes a second

    p = float(stats.ttest_rel(first, second).pvalue) if differences.size > 1 else math.nan
    return PairedDifference(difference, difference - half, difference + half, p)


def _rows_of_both(
    a_sums: ArrayLike, a_sizes: ArrayLike, b_sums: ArrayLike, b_sizes: ArrayLike
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(sums, sizes) of either model, the rows where both have a size above 0."""
    a_top, a_bottom, b_top, b_bottom = columns = [one_axis(column) for column in (a_sums, a_sizes, b_sums, b_sizes)]
    if len({column.size for column in columns}) > 1:
        raise ValueError(f"paired results need equal lengths, got {[column.size for column in columns]}")
    known = (a_bottom > 0) & (b_bottom > 0)
    return (a_top[known], a_bottom[known]), (b_top[known], b_bottom[known])


def _tested(difference: float, resampled: NDArray[np.float64], level: float, *, items: int) -> PairedDifference:
    """The difference with what its resamples say; bounds and p are NaN if there are none."""
    if not resampled.size:
        return PairedDifference(difference, math.nan, math.nan, math.nan)
    from scipy import special  # takes a second

    widening = math.sqrt(items / (items - 1))
    tail = float(special.ndtr(widening * special.stdtrit(items - 1, (1 - level) / 2)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    rarer = min((resampled <= 0).sum(), (resampled >= 0).sum())
    share = min(0.5, (1 + int(rarer)) / (resampled.size + 1))
    p = 2 * float(special.stdtr(items - 1, special.ndtri(share) / widening))
    return PairedDifference(difference, float(low), float(high), min(1.0, max(p, 2.0 ** (1 - items))))
