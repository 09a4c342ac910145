"""What several seeds support: intervals of a method's mean, and paired tests between methods."""

import math
import statistics
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
    return float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)


def interval_over_seeds(values: Sequence[float], metric: Metric) -> tuple[float, float] | None:
    """95 % Student t interval of the mean over seeds, cut at the metric's range; None below two values."""
    half = half_width(values)
    if half is None:
        return None
    mean = statistics.fmean(values)
    return metric.clipped(mean - half, mean + half)


def p_value(differences: Sequence[float]) -> float:
    """Of the paired t test, two-sided. NaN if there is no test: fewer than three differences, or no spread in them.

    Two differences that happen to be nearly equal would give any p-value. Differences without any spread are no
    evidence: the seed had no effect.
    """
    if len(differences) < LEAST_SEEDS or statistics.stdev(differences) <= 1e-9 * abs(statistics.fmean(differences)):
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def significant(p_values: Mapping[str, float]) -> set[str]:
    """Whose comparison stands at 5 % after Holm's correction over all of them; NaN is no comparison."""
    adjusted = holm(list(p_values.values()))
    return {label for label, p in zip(p_values, adjusted, strict=True) if p < 0.05}
