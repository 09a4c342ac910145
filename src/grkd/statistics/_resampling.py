"""Bootstrap resamples and checks that intervals and tests share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Draws of one batch of bootstrap resamples (8 bytes each, a few such arrays live at once).
_DRAWS = 1 << 22
_CACHED = 1 << 16  # of those, summed at a time


def ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    return float(sums.sum() / sizes.sum()) if sizes.size else math.nan


def percentiles(resampled: NDArray[np.float64], level: float) -> tuple[float, float]:
    if not resampled.size:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def resampled_ratios(
    columns: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], resamples: int, seed: int
) -> list[NDArray[np.float64]]:
    """sum / size over resamples of the rows, the same rows drawn for every pair of columns; empty below two rows."""
    check_resamples(resamples)
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
                totals.append(rows * sizes[0] if alike[number] else drawn_sums(sizes, drawn))
            found[number].append(drawn_sums(sums, drawn) / totals[number])
    return [np.concatenate(parts) for parts in found]


def drawn_sums(values: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """values[drawn].sum(-1), a few resamples at a time, so that what is drawn stays in the processor's cache."""
    step = max(1, _CACHED // drawn.shape[-1])
    return np.concatenate([values[drawn[at : at + step]].sum(-1) for at in range(0, len(drawn), step)])


def half_width(numbers: NDArray[np.float64], level: float) -> float:
    if numbers.size < 2:
        return math.nan
    from scipy import stats  # takes a second

    quantile = stats.t.ppf((1 + level) / 2, numbers.size - 1)
    return float(quantile * numbers.std(ddof=1) / math.sqrt(numbers.size))


def one_axis(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"values must have one axis, got shape {numbers.shape}")
    return numbers


def paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = one_axis(a), one_axis(b)
    if first.shape != second.shape:
        raise ValueError(f"paired results need equal lengths, got {first.size} and {second.size}")
    return first, second


def group_sums(
    numbers: NDArray[np.float64], groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each group's values that are not NaN; groups without any are left out."""
    known = ~np.isnan(numbers)
    ids = np.arange(numbers.size) if groups is None else np.asarray(groups)
    if ids.shape != numbers.shape:
        raise ValueError(f"groups have shape {ids.shape}, values {numbers.shape}; one group id per value")
    _, members = np.unique(ids[known], return_inverse=True)
    sums, counts = np.bincount(members, weights=numbers[known]), np.bincount(members)
    return sums.astype(np.float64), counts.astype(np.float64)  # bincount of nothing counts in integers


def check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
