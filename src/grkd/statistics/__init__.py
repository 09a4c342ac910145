"""How sure a figure is: intervals of means and shares, and paired comparisons of two models or methods.

Bounds that the data cannot give (a single seed, a single group) are NaN, never a made-up zero width.
JSON has no NaN: write it as null.
Over 300 lines: the formulas, sources and limits of a dozen small functions that are looked for in one place.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

# Draws of one batch of bootstrap resamples (8 bytes each, a few such arrays live at once).
_DRAWS = 1 << 22
_CACHED = 1 << 16  # of those, summed at a time


class Interval(NamedTuple):
    """A mean and the bounds of its interval, in the values' own unit."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """{"value", "low", "high"}, NaN as None."""
        value, low, high = (None if math.isnan(number) else float(number) for number in self)
        return {"value": value, "low": low, "high": high}


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
    sums, sizes = _group_sums(_one_axis(values), groups)
    return bootstrap_ratio(sums, sizes, level=level, resamples=resamples, seed=seed)


def bootstrap_ratio(
    sums: ArrayLike, sizes: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of sum(sums) / sum(sizes), rows drawn together: a mean from each group's sum.

    As bootstrap_interval with one row a group: sums [groups] of the values, sizes [groups] how many there are. Rows of
    size 0 are left out. Raises ValueError as bootstrap_interval, and for lengths that differ.
    """
    _check_level(level)
    top, bottom = _paired(sums, sizes)
    rows = [(top[bottom > 0], bottom[bottom > 0])]
    low, high = _percentiles(_resampled_ratios(rows, resamples, seed)[0], level)
    return Interval(_ratio(*rows[0]), low, high)


def bootstrap_statistic(
    measure: Callable[[NDArray[np.int64]], float],
    size: int,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a figure that is no mean of the examples (a calibration error, say).

    measure: the figure from the indices of the examples drawn, in [0, size); it is called on each resample, and on
    0 .. size - 1 for the value itself. NaN resamples are left out. Fewer than two examples: NaN bounds.
    Raises ValueError for a level outside (0, 1) or resamples below 1.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13.
    """
    _check_level(level)
    _check_resamples(resamples)
    value = float(measure(np.arange(size))) if size else math.nan
    if size < 2:
        return Interval(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    found = np.array([measure(generator.integers(size, size=size)) for _ in range(resamples)], dtype=np.float64)
    low, high = _percentiles(found[~np.isnan(found)], level)
    return Interval(value, low, high)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: successes / trials and its bounds, in [0, 1]; no trial: all NaN.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z the normal quantile of (1 + level) / 2.
    Unlike the interval of the mean it has a width where no item or every item is right.
    Raises ValueError for a level outside (0, 1) or successes outside [0, trials].
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    _check_level(level)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and the {trials} trials, got {successes}")
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    bounds = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high))


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test of two models on the same items: a[i] and b[i] say whether item i is right (0 or 1).

    Only items on which the models differ count. With n of them, of which k are a's: the two-sided binomial test of k
    in n at 1/2, p = min(1, 2 P(X <= min(k, n - k))). No such item: p = 1.
    Raises ValueError for lengths that differ or values other than 0 and 1.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947), in its exact form.
    """
    first, second = _paired(a, b)
    if not np.isin([first, second], (0, 1)).all():
        raise ValueError("McNemar's test takes 0 (wrong) and 1 (right) for every item")
    only_a, only_b = int((first > second).sum()), int((second > first).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values, in the order given: those at most 0.05 are significant at 5 % over the whole family.

    p sorted rising, p_(1) .. p_(m): adjusted p_(i) = min(1, max over j <= i of (m - j + 1) p_(j)).
    NaN (a test that could not be made) stays NaN and does not count in m.
    Raises ValueError for a p-value outside [0, 1].
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    numbers = _one_axis(p_values)
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
    bootstrap_interval). p = min(1, 2 min(1 + #{d* <= 0}, 1 + #{d* >= 0}) / (resamples + 1)): below 1 - level where
    the interval leaves out 0; but never below 2^(1 - n) of n items or groups, the chance that all n differences have
    one sign where there is none to find, since resamples of a few items cannot know more. Items for which either value
    is NaN are left out.
    No item: all NaN. A single item or group: NaN bounds and p.
    Raises ValueError for a level outside (0, 1), resamples below 1, lengths that differ, or groups of another length.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), sec. 13.3 and 15.4.
    """
    _check_level(level)
    first, second = _paired(a, b)
    sums, sizes = _group_sums(first - second, groups)
    (resampled,) = _resampled_ratios([(sums, sizes)], resamples, seed)
    return _tested(_ratio(sums, sizes), resampled, level, items=sums.size)


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
    """As paired_bootstrap, for figures whose items weigh differently in each model: the difference of two ratios.

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
    _check_level(level)
    known = [_rows_of_both(*column) for column in columns]
    resampled: dict[int, NDArray[np.float64]] = {}
    for rows in {first[0].size for first, _ in known}:
        ratios: dict[int, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        for number, (first, second) in enumerate(known):
            if first[0].size == rows:
                alike = np.array_equal(first[1], second[1])  # then one ratio is enough
                ratios[number] = [(first[0] - second[0], first[1])] if alike else [first, second]
        found = iter(_resampled_ratios([one for parts in ratios.values() for one in parts], resamples, seed))
        for number, parts in ratios.items():
            resampled[number] = next(found) if len(parts) == 1 else next(found) - next(found)
    return [
        _tested(_ratio(*first) - _ratio(*second), resampled[number], level, items=first[0].size)
        for number, (first, second) in enumerate(known)
    ]


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
    first, second = _paired(a, b)
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


def _rows_of_both(
    a_sums: ArrayLike, a_sizes: ArrayLike, b_sums: ArrayLike, b_sizes: ArrayLike
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(sums, sizes) of either model, the rows where both have a size above 0."""
    a_top, a_bottom, b_top, b_bottom = columns = [_one_axis(column) for column in (a_sums, a_sizes, b_sums, b_sizes)]
    if len({column.size for column in columns}) > 1:
        raise ValueError(f"paired results need equal lengths, got {[column.size for column in columns]}")
    known = (a_bottom > 0) & (b_bottom > 0)
    return (a_top[known], a_bottom[known]), (b_top[known], b_bottom[known])


def _tested(difference: float, resampled: NDArray[np.float64], level: float, *, items: int) -> PairedDifference:
    """The difference with what its resamples say; bounds and p are NaN where there are none."""
    low, high = _percentiles(resampled, level)
    rarer = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p = min(1.0, max(2 * (1 + int(rarer)) / (resampled.size + 1), 2.0 ** (1 - items))) if resampled.size else math.nan
    return PairedDifference(difference, low, high, p)


def _group_sums(
    numbers: NDArray[np.float64], groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each group's values that are not NaN; groups without any are left out."""
    known = ~np.isnan(numbers)
    ids = np.arange(numbers.size) if groups is None else np.asarray(groups)
    if ids.shape != numbers.shape:
        raise ValueError(f"groups have shape {ids.shape}, values {numbers.shape}; one group id a value")
    _, members = np.unique(ids[known], return_inverse=True)
    sums, counts = np.bincount(members, weights=numbers[known]), np.bincount(members)
    return sums.astype(np.float64), counts.astype(np.float64)  # bincount of nothing counts in integers


def _ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    return float(sums.sum() / sizes.sum()) if sizes.size else math.nan


def _percentiles(resampled: NDArray[np.float64], level: float) -> tuple[float, float]:
    if not resampled.size:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_ratios(
    columns: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], resamples: int, seed: int
) -> list[NDArray[np.float64]]:
    """sum / size over resamples of the rows, the same rows drawn for every pair of columns; empty below two rows."""
    _check_resamples(resamples)
    rows = columns[0][0].size
    if rows < 2:
        return [np.empty(0) for _ in columns]
    generator = np.random.default_rng(seed)
    batch = max(1, _DRAWS // rows)
    found: list[list[NDArray[np.float64]]] = [[] for _ in columns]
    alike = [bool((sizes == sizes[0]).all()) for _, sizes in columns]  # then every resample is of one size
    # The first column with the same sizes, whose totals serve.
    like = [next(n for n, (_, other) in enumerate(columns) if np.array_equal(other, sizes)) for _, sizes in columns]
    for start in range(0, resamples, batch):
        drawn = generator.integers(rows, size=(min(batch, resamples - start), rows))
        totals: list[Any] = []
        for number, (sums, sizes) in enumerate(columns):
            if like[number] < number:
                totals.append(totals[like[number]])
            else:
                totals.append(rows * sizes[0] if alike[number] else _totals(sizes, drawn))
            found[number].append(_totals(sums, drawn) / totals[number])
    return [np.concatenate(parts) for parts in found]


def _totals(values: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """values[drawn].sum(-1), a few resamples at a time, so that what is drawn stays in the processor's cache."""
    step = max(1, _CACHED // drawn.shape[-1])
    return np.concatenate([values[drawn[at : at + step]].sum(-1) for at in range(0, len(drawn), step)])


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


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _one_axis(a), _one_axis(b)
    if first.shape != second.shape:
        raise ValueError(f"paired results need equal lengths, got {first.size} and {second.size}")
    return first, second


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
