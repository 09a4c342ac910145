"""What the rows of a run say: means, intervals, differences, and which differences the seeds can support."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from grkd.metrics.registry import Metric, in_order
from grkd.reports.results import BEFORE, TEACHER, Row, Run, Task
from grkd.reports.seeds import LEAST_SEEDS, half_width, interval_over_seeds, p_value, significant


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method's value of one metric, in the metric's own unit (fractions stay fractions).

    `mean` over the seeds that have a value. `low`, `high`: 95 % interval, inside the metric's range: Student's t over
    seeds if there are two or more (`over_seeds`), the bootstrap's if there is one. `half_width`: of the t interval,
    None when it was cut at the range. `difference` to the baseline, paired over seeds.
    """

    values: dict[int | None, float] = field(default_factory=dict)
    mean: float | None = None
    half_width: float | None = None
    low: float | None = None
    high: float | None = None
    over_seeds: bool = False
    difference: float | None = None
    differs: bool = False  # from the baseline, in a paired t test over seeds at 5 %, Holm over the column's methods
    seeds_tried: int = 0
    best: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def complete(self) -> bool:
        return len(self.values) >= self.seeds_tried


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table. `kind`: "teacher", "before" or "method"; the costs are means over seeds."""

    label: str
    kind: str
    cells: dict[str, Cell]
    steps: float | None = None
    seconds: float | None = None
    rows_seen: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which methods the best one (by mean) beats in a paired t test over three or more seeds at 5 %, and which not.

    Holm's correction over the column's comparisons; that the best was chosen by the same results is not corrected.
    `tested` is False if no comparison could be tested: fewer than three seeds, or no two methods with the same seeds.
    """

    metric: Metric
    best: str
    better_than: tuple[str, ...]
    not_better_than: tuple[str, ...]
    tested: bool

    @property
    def better(self) -> bool:
        return bool(self.better_than) and not self.not_better_than


@dataclass(frozen=True, kw_only=True)
class Summary:
    metrics: tuple[Metric, ...]
    lines: tuple[Line, ...]
    verdicts: dict[str, Verdict]
    baseline: str | None  # the label that differences refer to
    task: Task | None = None

    @property
    def methods(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.kind == "method")

    def line(self, label: str) -> Line | None:
        return next((line for line in self.lines if line.label == label), None)

    @property
    def most_seeds(self) -> int:
        return max((len(cell.values) for line in self.methods for cell in line.cells.values()), default=0)


def summarise(run: Run) -> Summary:
    """The table of a run, with differences and verdicts."""
    metrics = in_order(row.metric for row in run.rows)
    present = {row.method for row in run.rows}
    labels = [label for label in (TEACHER, BEFORE, *run.labels) if label in present]
    baseline = _baseline(run, labels)
    columns = {metric.name: _column(run, labels, metric, baseline) for metric in metrics}
    lines = tuple(_line(run, label, {name: column[label] for name, column in columns.items()}) for label in labels)
    verdicts = {metric.name: verdict for metric in metrics if (verdict := _verdict(metric, lines)) is not None}
    return Summary(metrics=metrics, lines=lines, verdicts=verdicts, baseline=baseline, task=run.task)


def _baseline(run: Run, labels: Sequence[str]) -> str | None:
    plain = [label for label in labels if run.method_names.get(label, label) == "ce"]
    if run.task == "classifier" and plain:
        return plain[0]
    return BEFORE if BEFORE in labels else None


def _line(run: Run, label: str, cells: dict[str, Cell]) -> Line:
    rows = [row for row in run.rows if row.method == label]
    return Line(
        label=label,
        kind=label if label in (TEACHER, BEFORE) else "method",
        cells=cells,
        steps=_mean_per_seed({row.seed: float(row.steps) for row in rows if row.steps is not None}),
        seconds=_mean_per_seed({row.seed: row.seconds for row in rows if row.seconds is not None}),
        rows_seen=_mean_per_seed({row.seed: float(row.rows_seen) for row in rows if row.rows_seen is not None}),
    )


def _mean_per_seed(values: dict[int | None, float]) -> float | None:
    return math.fsum(values.values()) / len(values) if values else None


def _column(run: Run, labels: Sequence[str], metric: Metric, baseline: str | None) -> dict[str, Cell]:
    """Every label's cell of one metric."""
    rows = {label: [row for row in run.rows if (row.method, row.metric) == (label, metric.name)] for label in labels}
    values = {label: {row.seed: row.value for row in found if row.value is not None} for label, found in rows.items()}
    methods = [label for label in labels if label not in (BEFORE, TEACHER) and values[label]]
    # The mean of a method that lost a seed (a failure, a NaN) is over a lucky few: it is shown, never best or tested.
    complete = [label for label in methods if len(values[label]) >= len(run.seeds(label))]
    best = _best(values, complete, metric) if len(methods) > 1 else set()
    base = values[baseline] if baseline is not None else {}
    compared = [label for label in labels if label not in (baseline, BEFORE, TEACHER)]
    differences = {label: paired_values(values[label], base) for label in compared}
    differing = significant({label: p_value(found) for label, found in differences.items() if label in complete})
    return {
        label: _cell(
            metric,
            rows[label],
            values[label],
            differences=differences.get(label, []),
            differs=label in differing,
            tried=len(run.seeds(label)),
            best=label in best,
        )
        for label in labels
    }


def _best(values: dict[str, dict[int | None, float]], complete: Sequence[str], metric: Metric) -> set[str]:
    """Of the complete methods those with the best mean; none if it is no better than the student before."""
    means = {label: math.fsum(values[label].values()) / len(values[label]) for label in complete}
    if not metric.direction or not means:
        return set()
    top = max(means.values(), key=lambda mean: mean * metric.direction)
    before = _mean_per_seed(values.get(BEFORE, {}))
    if before is not None and (top - before) * metric.direction <= 0:
        return set()
    return {label for label, mean in means.items() if mean == top}


def _cell(
    metric: Metric,
    rows: Sequence[Row],
    values: dict[int | None, float],
    *,
    differences: Sequence[float],
    differs: bool,
    tried: int,
    best: bool,
) -> Cell:
    single = next((row for row in rows if row.value is not None), None) if len(values) == 1 else None
    low, high = (single.low, single.high) if single else (None, None)
    mean, half = _mean_per_seed(values), half_width(list(values.values()))
    bounds = interval_over_seeds(list(values.values()), metric)
    if mean is not None and half is not None and bounds is not None:
        low, high = bounds
        half = half if bounds == (mean - half, mean + half) else None
    return Cell(
        values=values,
        mean=mean,
        half_width=half,
        low=low,
        high=high,
        over_seeds=len(values) > 1,
        difference=math.fsum(differences) / len(differences) if differences else None,
        differs=differs,
        seeds_tried=tried,
        best=best,
    )


def paired_values(values: dict[int | None, float], others: dict[int | None, float]) -> list[float]:
    """Differences seed by seed; a side without seeds (the student before distillation) stands against every seed."""
    if None in others:
        return [value - others[None] for value in values.values()]
    if None in values:
        return [values[None] - other for other in others.values()]
    return [values[seed] - others[seed] for seed in values if seed in others]


def _verdict(metric: Metric, lines: Sequence[Line]) -> Verdict | None:
    cells = {line.label: line.cells[metric.name] for line in lines if line.kind == "method"}
    cells = {label: cell for label, cell in cells.items() if cell.mean is not None}
    best = next((label for label, cell in cells.items() if cell.best), None)
    if best is None:
        return None
    ours, others = cells[best].values, [label for label in cells if label != best]
    testable = [
        label
        for label in others
        if cells[label].complete and set(ours) == set(cells[label].values) and len(ours) >= LEAST_SEEDS
    ]
    beaten = significant({label: p_value(paired_values(ours, cells[label].values)) for label in testable})
    return Verdict(
        metric=metric,
        best=best,
        better_than=tuple(label for label in others if label in beaten),
        not_better_than=tuple(label for label in others if label not in beaten),
        tested=bool(testable),
    )
