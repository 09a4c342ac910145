"""The outcome of a run in plain words: what the numbers support, and no more."""

from collections.abc import Sequence

from grkd.metrics.registry import Metric
from grkd.reports.results import BEFORE, Run
from grkd.reports.seeds import LEAST_SEEDS
from grkd.reports.summary import Cell, Line, Summary, Verdict
from grkd.reports.tables import and_list, number, with_unit

# What the paragraph speaks about; the table has the rest.
_SPOKEN = {
    "classifier": ("accuracy", "kendall_tau"),
    "language_model": ("forward_kl_nats", "kendall_tau"),
    "rank": ("corpus_ndcg10", "list_ndcg10", "kendall_tau"),
}
_FAR = "the intervals of this single run do not overlap"
_PREDICATES = {  # "better" and "worse" only where a test over seeds supports them
    "better": "{are} significantly better",
    "worse": "{are} significantly worse",
    "unclear": "{show} no significant difference",
    "higher": "{are} higher, and " + _FAR,
    "lower": "{are} lower, and " + _FAR,
    "overlap": "{have} an interval that overlaps it",
    "untested": "{are} not tested",
}


def outcome(run: Run, summary: Summary) -> str:
    """One paragraph. "Better" stands only where a paired t test over seeds, corrected by Holm, supports it at 5 %."""
    if not any(cell.mean is not None for line in summary.methods for cell in line.cells.values()):
        return " ".join([run.without_results, *_failures(run)])
    spoken = [metric for metric in summary.metrics if metric.name in _SPOKEN.get(run.task or "", ())]
    spoken = spoken or [metric for metric in summary.metrics if metric.direction][:2]
    sentences = [_opening(run, summary), *_failures(run)]
    for metric in spoken:
        sentences += [_comparison(run, summary, metric), _against_baseline(summary, metric)]
    if summary.most_seeds < LEAST_SEEDS:
        few = "one seed" if summary.most_seeds < 2 else "fewer than three seeds"
        sentences.append(f"With {few}, none of this shows that one method is better than another.")
    return " ".join(sentence for sentence in sentences if sentence)


def _opening(run: Run, summary: Summary) -> str:
    names = [line.label for line in summary.methods]
    seeds = max(1, *(len(run.seeds(name)) for name in names), summary.most_seeds)
    count, each = ("One method", "") if len(names) == 1 else (f"{len(names)} methods", " each")
    return f"{count}, {'one seed' if seeds == 1 else f'{seeds} seeds'}{each}: {and_list(names)}."


def _failures(run: Run) -> list[str]:
    count = len(run.failures)
    return [f"{count} of {len(run.status)} trainings failed (listed below)."] if count else []


def _comparison(run: Run, summary: Summary, metric: Metric) -> str:
    verdict = summary.verdicts.get(metric.name)
    if verdict is None:
        lines = _valued(summary, metric)
        return " ".join(f"{line.label} reaches a {metric.label} of {_value(line, metric)}." for line in lines)
    best = next(line for line in summary.methods if line.label == verdict.best)
    extreme = "highest" if metric.direction > 0 else "lowest"
    whole = all(line.cells[metric.name].complete for line in _valued(summary, metric))
    text = "" if whole else "Of the methods that have all their seeds, "
    text += f"{best.label} has the {extreme} {metric.label}, {_value(best, metric)}"
    if verdict.better:
        text += f", and is significantly better than {_others(verdict.better_than)}."
    elif verdict.better_than:
        text += (
            f"; it is significantly better than {and_list(verdict.better_than)}, "
            f"but its lead over {and_list(verdict.not_better_than)} is not shown to be significant."
        )
    else:
        text += "; its lead is not significant." if verdict.tested else "."
    return " ".join([text, *_defeat(run, summary, metric, verdict)])


def _others(labels: Sequence[str]) -> str:
    return f"all {len(labels)} others" if len(labels) > 3 else and_list(labels)


def _defeat(run: Run, summary: Summary, metric: Metric, verdict: Verdict) -> list[str]:
    """Where grkd is among the methods and none of its variants is ahead, say so."""
    ours = [line for line in _valued(summary, metric) if run.method_names.get(line.label, line.label) == "grkd"]
    if not ours or any(line.cells[metric.name].best for line in ours):
        return []
    nearest = max(ours, key=lambda line: (line.cells[metric.name].mean or 0.0) * metric.direction)
    text = f"{nearest.label} does not win here: {_value(nearest, metric)}"
    if nearest.label in verdict.better_than:
        text += f", significantly behind {verdict.best}"
    elif verdict.tested:
        text += f"; its distance to {verdict.best} is not significant"
    return [f"{text}." if len(ours) == 1 else f"{text} (the nearest of {len(ours)} grkd settings)."]


def _against_baseline(summary: Summary, metric: Metric) -> str:
    """How the methods stand to the student before distillation, or to training without a teacher."""
    base = summary.line(summary.baseline) if summary.baseline is not None else None
    if base is None or base.cells[metric.name].mean is None or not metric.direction:
        return ""
    lines = [line for line in _valued(summary, metric) if line is not base]
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(_change(line.cells[metric.name], base.cells[metric.name], metric), []).append(line.label)
    if not groups:
        return ""
    against = "the student before distillation" if base.label == BEFORE else f"{base.label} (no teacher)"
    parts = [_predicate(change, labels, len(groups) == 1) for change, labels in groups.items()]
    return f"Against {against}, {_value(base, metric)}: {'; '.join(parts)}."


def _change(cell: Cell, base: Cell, metric: Metric) -> str:
    """A key of _PREDICATES."""
    difference = cell.difference or 0.0
    if not cell.complete:
        return "untested"
    if 1 < len(cell.values) < LEAST_SEEDS:
        return "untested"
    if len(cell.values) >= LEAST_SEEDS:
        if not cell.differs:
            return "unclear"
        return "better" if difference * metric.direction > 0 else "worse"
    if cell.interval is None or base.interval is None:
        return "untested"
    if cell.interval[0] > base.interval[1]:
        return "higher"
    return "lower" if cell.interval[1] < base.interval[0] else "overlap"


def _predicate(change: str, labels: Sequence[str], everyone: bool) -> str:
    one = len(labels) == 1
    forms = {"are": "is", "show": "shows", "have": "has"} if one else {"are": "are", "show": "show", "have": "have"}
    who = f"all {len(labels)} methods" if everyone and len(labels) > 3 else and_list(labels)
    return f"{who} {_PREDICATES[change].format(**forms)}"


def _valued(summary: Summary, metric: Metric) -> list[Line]:
    return [line for line in summary.methods if line.cells[metric.name].mean is not None]


def _value(line: Line, metric: Metric) -> str:
    cell = line.cells[metric.name]
    assert cell.mean is not None, line.label
    spread = "" if cell.half_width is None else f" ± {number(cell.half_width, metric)}"
    return with_unit(number(cell.mean, metric) + spread, metric.unit)
