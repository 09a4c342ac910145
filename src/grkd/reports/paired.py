"""Which of several models is better, item by item: paired tests between evaluations of the same benchmark.

Every figure here is a mean over items, or a ratio of sums over them. Two models are compared on the items that both
have, matched by id. The interval of the difference is a paired bootstrap over items (over whole prompts, where several
items belong to one); p is McNemar's exact test where an item is right or wrong, else the paired bootstrap's.
Holm's correction counts all pairs of models of one figure; "better" means a corrected p below 0.05.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grkd.errors import UserError
from grkd.evaluation.statistics import McNemar, holm, mcnemar, paired_bootstrap_ratio
from grkd.reports._measures import MEASURES, TASKS, Measure
from grkd.reports.evaluations import Evaluation, Item

ALL_PAIRS_UP_TO = 4  # models; of more only the comparisons with the best are shown
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """a - b on the items of both, in the measure's shown unit. p_holm: corrected; only_right: McNemar's two counts."""

    measure: Measure
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
    def better(self) -> str | None:
        """The label of the model that is better at 5 %, None where neither is shown to be."""
        if not self.p_holm < SIGNIFICANT or self.difference == 0:
            return None
        return self.a if (self.difference > 0) == self.measure.higher_is_better else self.b


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The comparisons that are shown, and what the reader must know about them."""

    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence a comparison that shows a difference."""
        found = [(one, one.better) for one in self.comparisons]
        return tuple(
            f"{one.measure.title}: {better} is better than {one.b if better == one.a else one.a} "
            f"(p = {one.p_holm:.2g} after Holm's correction, {one.items} items)."
            for one, better in found
            if better is not None
        )


def compare(evaluations: Sequence[Evaluation], *, teacher: str | None = None, seed: int = 0) -> Paired:
    """All paired tests that these evaluations allow.

    Up to four models every pair is shown, of more those with the best of each figure (the correction counts all pairs
    either way, so that choosing the best by the same items flatters nobody), each as the later model less the earlier.
    teacher: a label that is left out where there are two others. Results on other questions or by another judge are
    never compared; a note says which.
    Raises UserError for items without what they must have.
    """
    shown: list[Comparison] = []
    notes: list[str] = []
    for task in dict.fromkeys(measure.task for measure in MEASURES):
        ours = [one for one in evaluations if one.task == task]
        others = [one for one in ours if one.label != teacher]
        ours = others if len(others) > 1 else ours
        bare, ours = [one.label for one in ours if not one.items], [one for one in ours if one.items]
        if bare and ours:
            notes.append(f"{TASKS[task]}: not compared with {', '.join(bare)}, whose files hold no results by item.")
        pairs = [(b, a) for a, b in itertools.combinations(ours, 2) if _comparable(a, b, notes)]
        for measure in (measure for measure in MEASURES if measure.task == task):
            shown += _of_measure(measure, ours, pairs, seed)
    return Paired(comparisons=tuple(shown), notes=(*_how(shown, evaluations), *dict.fromkeys(notes)))


def _of_measure(
    measure: Measure, ours: Sequence[Evaluation], pairs: Sequence[tuple[Evaluation, Evaluation]], seed: int
) -> list[Comparison]:
    tested = [one for a, b in pairs if (one := _tested(measure, a, b, seed)) is not None]
    adjusted = holm([one.p for one in tested])
    corrected = [replace(one, p_holm=float(p)) for one, p in zip(tested, adjusted, strict=True)]
    labels = {label for one in corrected for label in (one.a, one.b)}
    if len(labels) <= ALL_PAIRS_UP_TO:
        return corrected
    means = {one.label: _mean(measure, one) for one in ours if one.label in labels}
    best = max(means, key=lambda label: means[label] * (1 if measure.higher_is_better else -1))
    return [one for one in corrected if best in (one.a, one.b)]


def _comparable(a: Evaluation, b: Evaluation, notes: list[str]) -> bool:
    """Whether the two answered the same questions under the same conditions; if not, a note says why."""
    title, who = TASKS[a.task], f"{a.label} and {b.label}"
    for name in {**a.conditions, **b.conditions}:
        if a.conditions.get(name) != b.conditions.get(name):
            values = f"{_shown(a.conditions.get(name))} and {_shown(b.conditions.get(name))}"
            notes.append(f"{title}: {who} were evaluated with a different {name} ({values}); not compared.")
            return False
    first, second = _by_id(a), _by_id(b)
    common = first.keys() & second.keys()
    other = next((name for name in first if name in common and not _same(first[name], second[name])), None)
    if other is not None:
        notes.append(f"{title}: item {other!r} is another question for {a.label} than for {b.label}; not compared.")
    elif not common:
        notes.append(f"{title}: {who} have no item in common; not compared.")
    elif len(common) < max(len(first), len(second)):
        notes.append(
            f"{title}: {a.label} has {len(first)} items and {b.label} {len(second)}; "
            f"compared on the {len(common)} in common."
        )
    return other is None and bool(common)


def _tested(measure: Measure, a: Evaluation, b: Evaluation, seed: int) -> Comparison | None:
    """The comparison of two models, None where no item has the measure in both."""
    try:
        return _on_common_items(measure, a, b, seed)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{a.path} and {b.path}: the items of {measure.task} are not as grkd writes them ({error}); "
            "run these evaluations again"
        ) from None


def _on_common_items(measure: Measure, a: Evaluation, b: Evaluation, seed: int) -> Comparison | None:
    first, second = _by_id(a), _by_id(b)
    names = [name for name in first if name in second and _has(measure, first[name]) and _has(measure, second[name])]
    if not names:
        return None
    ours, theirs = ([one[name] for name in names] for one in (first, second))
    columns = [_sums(measure, rows, [row.get("group", row["id"]) for row in ours]) for rows in (ours, theirs)]
    (a_sums, a_sizes), (b_sums, b_sizes) = columns
    found = paired_bootstrap_ratio(a_sums, a_sizes, b_sums, b_sizes, seed=seed)
    right: McNemar | None = None
    if measure.right_or_wrong:
        right = mcnemar([row[measure.value] for row in ours], [row[measure.value] for row in theirs])
    return Comparison(
        measure=measure,
        a=a.label,
        b=b.label,
        items=len(names),
        difference=found.difference * measure.scale,
        low=found.low * measure.scale,
        high=found.high * measure.scale,
        p=found.p if right is None else right.p,
        only_right=None if right is None else (right.only_a, right.only_b),
    )


def _sums(
    measure: Measure, rows: Sequence[Item], groups: Sequence[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of each group's values, the groups in order of appearance."""
    place = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    members = [place[group] for group in groups]
    weights = np.array([float(row[measure.weight]) if measure.weight else 1.0 for row in rows])
    values = np.array([float(row[measure.value]) for row in rows])
    sums, sizes = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(sums, members, weights * values)
    np.add.at(sizes, members, weights)
    return sums, sizes


def _mean(measure: Measure, one: Evaluation) -> float:
    rows = [row for row in one.items if _has(measure, row)]
    sums, sizes = _sums(measure, rows, [row["id"] for row in rows])
    return float(sums.sum() / sizes.sum())


def _has(measure: Measure, row: Item) -> bool:
    """Whether the item has a value of this measure, by at least one of what it is the mean of."""
    return row.get(measure.value) is not None and (measure.weight is None or bool(row.get(measure.weight)))


def _by_id(one: Evaluation) -> dict[str, Item]:
    if any("id" not in row for row in one.items):
        raise UserError(f"{one.path}: an item of {one.task} has no id; run that evaluation again")
    return {str(row["id"]): row for row in one.items}


def _same(first: Item, second: Item) -> bool:
    """Whether two items of one id ask the same; results that do not say are believed."""
    return first.get("asked") is None or second.get("asked") is None or first["asked"] == second["asked"]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _how(shown: Sequence[Comparison], evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """How the comparisons are made."""
    if not shown:
        return
    yield (
        "The same items for both models, paired by id. [low, high]: 95 % bootstrap interval of the difference, items "
        "drawn together with all that belongs to their prompt. p: McNemar's exact test (with how many items only the "
        "first and only the second got right) or the paired bootstrap."
    )
    yield (
        "p (Holm) is corrected over all pairs of models of one figure, not over figures; "
        '"better" means that it is below 0.05.'
    )
    labels: Mapping[str, None] = dict.fromkeys(one.label for one in evaluations)
    if len(labels) > ALL_PAIRS_UP_TO:
        yield (
            f"With more than {ALL_PAIRS_UP_TO} models only comparisons with the best of each figure are shown; "
            "the correction counts all."
        )
    if any(one.measure.task == "alpaca_eval" for one in shown):
        yield "The length-controlled win rate is a fit over all instructions and is not compared item by item."
