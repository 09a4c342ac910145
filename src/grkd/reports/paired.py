"""Which of several models is ahead, item by item: paired tests between evaluations of the same benchmark.

Every metric here is a mean over items, or a ratio of sums over them. Two models are compared on the items that both
have, matched by id. The interval of the difference is a paired bootstrap over items (over whole prompts, where several
items belong to one); p is McNemar's exact test where an item is right or wrong, else the paired bootstrap's.
Holm's correction counts all pairs of models of one metric; "ahead" means a corrected p below 0.05.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grkd.benchmarks import all_benchmarks, title_of
from grkd.errors import UserError
from grkd.reports._comparable import ComparablePair, comparable
from grkd.reports.evaluations import Evaluation, ItemRecord
from grkd.reports.item_measures import ItemMeasure, item_measures, measures_of
from grkd.statistics import McNemar, PairedDifference, holm, mcnemar, paired_bootstrap_ratios

ALL_PAIRS_UP_TO = 4  # models; of more only the comparisons with the best are shown
SIGNIFICANT = 0.05

_Column = NDArray[np.float64]  # one number per group


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """a - b on the items of both, in the measure's shown unit. p_holm: corrected; only_right: McNemar's two counts."""

    measure: ItemMeasure
    a: str
    b: str
    items: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan
    only_right: tuple[int, int] | None = None

    @property
    def ahead(self) -> str | None:
        """The label of the model that is ahead on these items at 5 %, None if neither is shown to be.

        A word about two models, each trained once: that a method is better takes several seeds.
        """
        if not self.p_holm < SIGNIFICANT or self.difference == 0:
            return None
        return self.a if (self.difference > 0) == self.measure.higher_is_better else self.b


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The comparisons that are shown, and what the reader must know about them."""

    comparisons: tuple[PairedComparison, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence per comparison that shows a difference."""
        found = [(one, one.ahead) for one in self.comparisons]
        return tuple(
            f"{one.measure.title}: {ahead} is ahead of {one.b if ahead == one.a else one.a} "
            f"(p = {one.p_holm:.2g} after Holm's correction, {one.items} items)."
            for one, ahead in found
            if ahead is not None
        )


def compare(evaluations: Sequence[Evaluation], *, teacher: str | None = None, seed: int = 0) -> Paired:
    """All paired tests that these evaluations allow.

    Up to four models every pair is shown, of more those with the best of each metric (the correction counts all pairs
    either way, so that choosing the best by the same items flatters nobody), each as the later model less the earlier.
    teacher: a label that is left out where there are two others. Results on other questions or by another judge are
    never compared; a note says which.
    Raises UserError for items without what they must have.
    """
    shown: list[PairedComparison] = []
    notes: list[str] = []
    left_out = 0
    known = [measure.task for measure in item_measures()]
    for task in dict.fromkeys([*known, *(one.task for one in evaluations)]):
        ours = [one for one in evaluations if one.task == task]
        others = [one for one in ours if one.label != teacher]
        ours = others if len(others) > 1 else ours
        bare, ours = [one.label for one in ours if not one.items], [one for one in ours if one.items]
        if bare and ours:
            notes.append(f"{title_of(task)}: not compared with {', '.join(bare)}, which have no results per item.")
        whole = all(item.get("value") in (0, 1) for one in ours for item in one.items)
        measures = list(measures_of(task, right_or_wrong=whole))
        pairs = [pair for a, b in itertools.combinations(ours, 2) if (pair := comparable(a, b, notes)) is not None]
        tested = [_tested(measures, pair, seed) for pair in pairs]
        for measure in measures:
            every = corrected([found[measure] for found in tested if measure in found])
            chosen = _chosen(measure, ours, every)
            left_out += len(every) - len(chosen)
            shown += chosen
    how = _how(shown, left_out=left_out > 0)
    return Paired(comparisons=tuple(shown), notes=(*how, *dict.fromkeys(notes)))


def corrected(tested: Sequence[PairedComparison]) -> list[PairedComparison]:
    """With the p-values of one metric's comparisons corrected by Holm."""
    adjusted = holm([one.p for one in tested])
    return [replace(one, p_holm=float(p)) for one, p in zip(tested, adjusted, strict=True)]


def _chosen(
    measure: ItemMeasure, ours: Sequence[Evaluation], corrected: list[PairedComparison]
) -> list[PairedComparison]:
    """All comparisons of a metric, or of many models those with the best."""
    labels = {label for one in corrected for label in (one.a, one.b)}
    if len(labels) <= ALL_PAIRS_UP_TO:
        return corrected
    means = {one.label: _mean(measure, one) for one in ours if one.label in labels}
    best = max(means, key=lambda label: means[label] * (1 if measure.higher_is_better else -1))
    return [one for one in corrected if best in (one.a, one.b)]


def _tested(measures: Sequence[ItemMeasure], pair: ComparablePair, seed: int) -> dict[ItemMeasure, PairedComparison]:
    """The comparison of two models by every measure that an item of both has."""
    known = {
        measure: [(ours, theirs) for ours, theirs in pair.items if _has(measure, ours) and _has(measure, theirs)]
        for measure in measures
    }
    try:
        columns = {measure: _columns(measure, items) for measure, items in known.items() if items}
        differences = paired_bootstrap_ratios(list(columns.values()), seed=seed)
        return {
            measure: _compared(measure, pair, known[measure], found)
            for measure, found in zip(columns, differences, strict=True)
        }
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{pair.a.path} and {pair.b.path}: the items of {pair.a.task} are not as grkd writes them ({error}); "
            "run these evaluations again"
        ) from None


def _compared(
    measure: ItemMeasure, pair: ComparablePair, items: Sequence[tuple[ItemRecord, ItemRecord]], found: PairedDifference
) -> PairedComparison:
    right: McNemar | None = None
    if measure.right_or_wrong:
        right = mcnemar([row[measure.key] for row, _ in items], [row[measure.key] for _, row in items])
    return PairedComparison(
        measure=measure,
        a=pair.a.label,
        b=pair.b.label,
        items=len(items),
        difference=found.difference * measure.metric.scale,
        low=found.low * measure.metric.scale,
        high=found.high * measure.metric.scale,
        p=found.p if right is None else right.p,
        only_right=None if right is None else (right.only_a, right.only_b),
    )


def _columns(
    measure: ItemMeasure, items: Sequence[tuple[ItemRecord, ItemRecord]]
) -> tuple[_Column, _Column, _Column, _Column]:
    """Sums and sizes of either model's groups, which are a's."""
    groups = [ours.get("group", ours["id"]) for ours, _ in items]
    return *_sums(measure, [ours for ours, _ in items], groups), *_sums(measure, [b for _, b in items], groups)


def _sums(measure: ItemMeasure, rows: Sequence[ItemRecord], groups: Sequence[Any]) -> tuple[_Column, _Column]:
    """Sum and number of each group's values, the groups in order of appearance."""
    place = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    members = [place[group] for group in groups]
    weights = np.array([float(row[measure.weight]) if measure.weight else 1.0 for row in rows])
    values = np.array([float(row[measure.key]) for row in rows])
    sums, sizes = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(sums, members, weights * values)
    np.add.at(sizes, members, weights)
    return sums, sizes


def _mean(measure: ItemMeasure, one: Evaluation) -> float:
    rows = [row for row in one.items if _has(measure, row)]
    sums, sizes = _sums(measure, rows, [row["id"] for row in rows])
    return float(sums.sum() / sizes.sum())


def _has(measure: ItemMeasure, row: ItemRecord) -> bool:
    """Whether the item has a value of this measure, by at least one of what it is the mean of."""
    return row.get(measure.key) is not None and (measure.weight is None or bool(row.get(measure.weight)))


def _how(shown: Sequence[PairedComparison], *, left_out: bool) -> Iterator[str]:
    """How the comparisons are made. left_out: not all of them are shown."""
    if not shown:
        return
    yield (
        "Both models answered the same items, paired by id. [low, high]: 95 % bootstrap interval of the difference; "
        "items of one prompt are drawn together. p: McNemar's exact test (with the numbers of items that only the "
        "first and only the second model got right) or the paired bootstrap."
    )
    yield (
        "p (Holm) is corrected over all pairs of models for one metric, not over metrics. "
        '"Ahead" means that it is below 0.05, "none shown" that it is not.'
    )
    yield (
        "Each row is one model, trained once. A model that is ahead on these items does not show that its method is "
        "better: that takes three seeds or more (grkd compare)."
    )
    if left_out:
        yield (
            f"With more than {ALL_PAIRS_UP_TO} models, only comparisons with the best model of each metric are shown; "
            "the correction counts all comparisons."
        )
    tasks = {one.measure.task for one in shown}
    yield from (one.note for name, one in all_benchmarks().items() if name in tasks and one.note is not None)
