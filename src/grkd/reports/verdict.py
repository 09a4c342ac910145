"""The verdict on a run in one sentence: what to ship, or what is missing to say so. It says no more than the tests."""

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from grkd.metrics.registry import Metric
from grkd.reports.results import BEFORE
from grkd.reports.seeds import LEAST_SEEDS
from grkd.reports.summary import Cell, Summary, paired_values
from grkd.reports.tables import and_list, number, with_unit
from grkd.statistics import pairs_needed, shown_difference

_WORTH_NAMING = 40  # seeds; who would run more rather reads what a few more would show
_A_FEW = 5
_NO_DIVERGENCE = 1e-6  # nats per token, of rounding

Kind = Literal["ship", "unclear", "none", "few"]


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """kind: ship (a method is shown to be best), unclear (no difference shown), none (nothing beats the student
    before), few (too few seeds for any test)."""

    kind: Kind
    text: str


def deciding_metric(summary: Summary) -> Metric | None:
    """What decides: the first metric of the table with a direction that says something of the teacher, too.

    Where there is none, agreement with the teacher decides.
    """
    known = [metric for metric in summary.metrics if metric.direction and _valued(summary, metric)]
    return next((metric for metric in known if not metric.against_teacher), known[0] if known else None)


def verdict(summary: Summary) -> Conclusion | None:
    """The verdict by the deciding metric; None if there is nothing to compare."""
    metric = deciding_metric(summary)
    if metric is None:
        return None
    cells = _valued(summary, metric)
    if _began_as_teacher(summary, metric):
        text = "Not decided: the student began as the teacher itself, so agreement with the teacher shows no progress; "
        return Conclusion(kind="few", text=f"{text}measure its answers by evaluation.questions or grkd eval.")
    best = max(cells, key=lambda label: (cells[label].mean or 0.0) * metric.direction)
    bar = _bar(summary, metric, best)
    if bar is None and len(cells) < 2:
        return None  # nothing to compare it with
    if bar is not None and not _better(cells[best], bar, metric):
        return Conclusion(kind="none", text=f"No method beats {_named(summary)}: {metric.label} {_value(bar, metric)}.")
    if summary.most_seeds < LEAST_SEEDS:
        return _few(summary, metric, cells, best)
    if bar is not None and not any(cell.differs and _better(cell, bar, metric) for cell in cells.values()):
        text = f"No method is shown to beat {_named(summary)} ({metric.label} {_value(bar, metric)})"
        return Conclusion(kind="none", text=text + _missing(cells[best], bar, metric) + ".")
    if bar is not None and len(cells) < 2:
        gain = _gain(cells[best], bar, metric)
        return Conclusion(kind="ship", text=f"Ship {best}: {_stands(cells[best], metric)}, {gain} {_named(summary)}.")
    return _among(summary, metric, cells, best)


def _bar(summary: Summary, metric: Metric, best: str) -> Cell | None:
    """What the best method has to beat: the baseline, if it has a value and is not the best itself."""
    base = summary.line(summary.baseline) if summary.baseline is not None else None
    if base is None or base.label == best or base.cells[metric.name].mean is None:
        return None
    return base.cells[metric.name]


def _among(summary: Summary, metric: Metric, cells: dict[str, Cell], best: str) -> Conclusion:
    """Of several methods with enough seeds."""
    found = summary.verdicts.get(metric.name)
    others = [label for label in cells if label != best]
    second = max(others, key=lambda label: (cells[label].mean or 0.0) * metric.direction)
    if found is not None and found.best == best and found.better:
        gain = _gain(cells[best], cells[second], metric)
        return Conclusion(kind="ship", text=f"Ship {best}: {_stands(cells[best], metric)}, {gain} {second}, the next.")
    level = list(found.not_better_than) if found is not None and found.best == best else others
    near = level if len(level) < 4 else [second]
    text = f"No difference shown between {and_list([best, *near])}"
    if len(level) > len(near):
        text += f" and {len(level) - len(near)} others"
    rest = f"; {best} is better than {and_list(found.better_than)}" if found is not None and found.better_than else ""
    return Conclusion(kind="unclear", text=text + _missing(cells[best], cells[second], metric) + rest + ".")


def _began_as_teacher(summary: Summary, metric: Metric) -> bool:
    """Whether the metric measures nearness to a teacher that the student before training is."""
    line = summary.line(BEFORE)
    cell = None if line is None else line.cells.get("forward_kl_nats")
    near = metric.against_teacher or metric.name == "soft_cross_entropy_nats"
    return near and cell is not None and cell.mean is not None and cell.mean < _NO_DIVERGENCE


def _few(summary: Summary, metric: Metric, cells: dict[str, Cell], best: str) -> Conclusion:
    seeds = "one seed shows" if summary.most_seeds < 2 else "two seeds show"
    ahead = f"{best} is ahead in {metric.label} ({_value(cells[best], metric)}), but {seeds} no difference"
    if len(cells) < 2:
        ahead = f"{best} is ahead of {_named(summary)} ({_value(cells[best], metric)}), but {seeds} no difference"
    return Conclusion(kind="few", text=f"Not decided: {ahead}; run {LEAST_SEEDS} seeds or more.")


def _missing(one: Cell, other: Cell, metric: Metric) -> str:
    """How many more seeds would show the difference of two cells, as words that follow a sentence."""
    differences = paired_values(one.values, other.values)
    if len(differences) < LEAST_SEEDS:
        seeds = ["no seed compares", "1 seed compares", "2 seeds compare"][len(differences)]
        return f"; {seeds} them, and a test takes {LEAST_SEEDS}"
    mean, deviation = math.fsum(differences) / len(differences), statistics.stdev(differences)
    if not deviation > 1e-9 * abs(mean):
        same = f" ({_size(mean, metric)}); it is the same for every seed, and a test over seeds needs some variation"
        return same if mean else ""
    have = len(differences)
    needed = pairs_needed(mean, deviation) if mean else None
    if needed is not None and needed <= have + _WORTH_NAMING:
        more = max(1, needed - have)
        seeds = "1 more seed" if more == 1 else f"{more} more seeds"
        return f" ({_size(mean, metric)}); {seeds} would detect a difference of this size"
    seen = _size(shown_difference(deviation, have + _A_FEW), metric)
    return f" ({_size(mean, metric)}); {_A_FEW} more seeds would show {seen}"


def _gain(one: Cell, other: Cell, metric: Metric) -> str:
    differences = paired_values(one.values, other.values)
    mean = math.fsum(differences) / len(differences) if differences else (one.mean or 0.0) - (other.mean or 0.0)
    return f"{_size(mean, metric)} {'above' if metric.direction > 0 else 'below'}"


def _stands(cell: Cell, metric: Metric) -> str:
    return f"{metric.label} {_value(cell, metric)} over {len(cell.values)} seeds"


def _value(cell: Cell, metric: Metric) -> str:
    assert cell.mean is not None
    return with_unit(number(cell.mean, metric), metric.unit)


def _size(difference: float, metric: Metric) -> str:
    """A difference without its sign; of shares in points."""
    return with_unit(number(abs(difference), metric), "points" if metric.unit == "%" else metric.unit)


def _named(summary: Summary) -> str:
    return "the student before distillation" if summary.baseline == BEFORE else f"{summary.baseline}, without a teacher"


def _better(one: Cell, other: Cell, metric: Metric) -> bool:
    """By the mean."""
    return one.mean is not None and other.mean is not None and (one.mean - other.mean) * metric.direction > 0


def _valued(summary: Summary, metric: Metric) -> dict[str, Cell]:
    return {line.label: line.cells[metric.name] for line in summary.methods if line.cells[metric.name].mean is not None}
