"""Mean ranks of the methods over the classification experiments, and tests with the experiments as the sample.

Source: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks._classification_results import DASH, OURS, SPOKEN, Column, Experiment, markdown, shown_p
from grkd.statistics import holm

_DECIMALS = 12  # means that differ by rounding alone are ties


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Of one metric, over the experiments in which every method has every seed."""

    experiments: int
    ranks: dict[str, float]  # label -> mean rank, 1 the best
    friedman_p: float  # of all methods being alike; NaN where the test cannot be made
    against: dict[str, tuple[float, float]]  # baseline -> mean of OURS minus it, Wilcoxon's p after Holm


def ranking(experiments: Sequence[Experiment], column: Column) -> Ranking:
    """Ranks of OURS (without its variants) and every baseline by the mean over seeds; ties have their mean rank.

    Friedman's test over all of them; for each baseline Wilcoxon's signed-rank test of OURS against it over the
    experiments, with Holm's correction over the baselines.
    """
    measured = [experiment for experiment in experiments if experiment.means(column)]
    labels = list(dict.fromkeys(label for experiment in measured for label in _ranked(experiment)))
    whole = [means for experiment in measured if set(labels) <= set(means := experiment.means(column))]
    table = np.array([[means[label] for label in labels] for means in whole]).reshape(len(whole), len(labels))
    table = table.round(_DECIMALS)
    ranks = stats.rankdata(-column.direction * table, axis=1) if table.size else table
    against = {}
    if OURS in labels and len(whole):
        ours = table[:, labels.index(OURS)]
        gains = {k: (ours - table[:, i]).round(_DECIMALS) for i, k in enumerate(labels) if k != OURS}
        adjusted = holm([_wilcoxon_p(gain) for gain in gains.values()])
        against = {k: (float(gain.mean()), float(p)) for (k, gain), p in zip(gains.items(), adjusted, strict=True)}
    return Ranking(
        experiments=len(whole),
        ranks={label: float(ranks[:, i].mean()) for i, label in enumerate(labels)} if len(whole) else {},
        friedman_p=_friedman_p(ranks),
        against=against,
    )


def section(experiments: Sequence[Experiment], columns: Sequence[Column]) -> list[str]:
    """The page's lines; none for fewer than two experiments."""
    columns = [column for column in columns if column.metric in SPOKEN]
    found = [ranking(experiments, column) for column in columns]
    if max(one.experiments for one in found) < 2:
        return []
    heads = [column.head for column in columns]
    labels = list(dict.fromkeys(label for one in found for label in one.ranks))
    ranks = [["", *heads], ["---", *["---:"] * len(heads)]]
    ranks.append(["experiments", *(str(one.experiments) for one in found)])
    ranks += [[label, *(_rank(one, label) for one in found)] for label in labels]
    ranks.append(["Friedman's test", *(_p(one.friedman_p) for one in found)])
    gains = [[f"{OURS} against", *heads], ["---", *["---:"] * len(heads)]]
    gains += [
        [label, *(_gain(one, label, column) for one, column in zip(found, columns, strict=True))]
        for label in labels
        if label != OURS
    ]
    return [
        "## Mean ranks",
        "",
        f"In every experiment, `{OURS}` and the baselines are ranked by their means over seeds (1: the best; ties",
        "share their mean rank). The table has the mean rank over the experiments in which every method has every",
        "seed. Friedman's test tells whether the methods differ at all (Demsar, JMLR 2006).",
        "",
        *markdown(ranks),
        "",
        f"`{OURS}` minus each baseline, mean over the experiments, and the p-value of Wilcoxon's signed-rank test over",
        "them, with Holm's correction over the baselines.",
        f"The test cannot give a p-value below {_least(found)}.",
        "Experiments that share a data set and a teacher are not independent, so these p-values are optimistic.",
        "",
        *markdown(gains),
        "",
    ]


def _least(found: Sequence[Ranking]) -> str:
    """The least p-values that are possible: all gains of one sign, 2 / 2^n, and the first step of Holm's correction."""
    sizes = dict.fromkeys((one.experiments, len(one.against)) for one in found if one.against)
    least = {size: min(1.0, 2 ** (1 - size[0]) * size[1]) for size in sizes}
    return ", or ".join(f"{p:.3f} with {size[0]} experiments and {size[1]} baselines" for size, p in least.items())


def _ranked(experiment: Experiment) -> list[str]:
    return [label for label, method in experiment.methods.items() if method != OURS or label == OURS]


def _wilcoxon_p(gain: NDArray[np.float64]) -> float:
    return float(stats.wilcoxon(gain).pvalue) if gain.any() else math.nan


def _friedman_p(ranks: NDArray[np.float64]) -> float:
    """NaN for fewer than two experiments or three methods, or where all tie."""
    experiments, methods = ranks.shape
    if experiments < 2 or methods < 3 or not np.ptp(ranks, axis=1).any():
        return math.nan
    return float(stats.friedmanchisquare(*ranks.T).pvalue)


def _rank(found: Ranking, label: str) -> str:
    if label not in found.ranks:
        return DASH
    text = f"{found.ranks[label]:.2f}"
    return f"**{text}**" if found.ranks[label] == min(found.ranks.values()) else text


def _gain(found: Ranking, label: str, column: Column) -> str:
    if label not in found.against:
        return DASH
    difference, p = found.against[label]
    return f"{difference * column.scale:+.{column.decimals}f}, {_p(p)}"


def _p(p: float) -> str:
    return DASH if math.isnan(p) else shown_p(p)
