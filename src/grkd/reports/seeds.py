"""What several seeds support: intervals of a method's mean, and paired tests between methods."""

import math
from collections.abc import Mapping, Sequence

from scipy import stats

from grkd.metrics.registry import Metric
from grkd.statistics import holm

LEAST_SEEDS = 3  # below these no method is called better than another


def half_width(values: Sequence[float]) -> float | None:
    """Of the 95 % interval of the mean: t_{0.975, n-1} s / sqrt(n); None below two values."""
    count = len(values)
    if count < 2:
        return None
    return float(stats.t.ppf(0.975, count - 1)) * _deviation(values) / math.sqrt(count)


def interval_over_seeds(values: Sequence[float], metric: Metric) -> tuple[float, float] | None:
    """95 % Student t interval of the mean over seeds, cut at the metric's range; None below two values."""
    half = half_width(values)
    if half is None:
        return None
    mean = math.fsum(values) / len(values)
    return metric.clipped(mean - half, mean + half)


def p_value(differences: Sequence[float]) -> float:
    """Of the paired t test, two-sided. NaN if there is no test: fewer than three differences, or no spread in them.

    Two differences that happen to be nearly equal would give any p-value. Differences without any spread are no
    evidence: the seed had no effect.
    """
    count = len(differences)
    if count < LEAST_SEEDS:
        return math.nan
    mean, spread = sum(differences) / count, _deviation(differences)
    if spread <= 1e-9 * abs(mean):
        return math.nan
    return float(2 * stats.t.sf(abs(mean) / spread * math.sqrt(count), count - 1))


def significant(p_values: Mapping[str, float]) -> set[str]:
    """Whose comparison stands at 5 % after Holm's correction over all of them; NaN is no comparison."""
    adjusted = holm(list(p_values.values()))
    return {label for label, p in zip(p_values, adjusted, strict=True) if p < 0.05}


def _deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
