"""A comparison's search for the page: trials as a share of each grid, settings chosen, validation against held-out."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from scipy import stats

from grkd.files import NotJSON, parse_json
from grkd.metrics.registry import Metric, metric_of
from grkd.reports.results import Run, Value
from grkd.reports.summary import Summary
from grkd.reports.tables import DASH, header, number

_FEWEST = 4  # methods: a rank correlation over fewer says nothing


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True, kw_only=True)
class _Trial:
    method: str
    metric: str
    settings: dict[str, Any]
    grid: Annotated[int, Field(ge=1)]  # points of the method's ranges
    at_edge: list[str]
    value: Value = None


_TRIALS = TypeAdapter(list[_Trial]).validate_python


def search_view(run: Run, summary: Summary) -> dict[str, Any] | None:
    """What the template shows: a row per method, and notes; None for a run without a search.

    problem: why the search cannot be shown.
    """
    path = run.folder / "search.json"
    if not path.exists():
        return None
    try:
        trials = _TRIALS(parse_json(path.read_bytes(), strict=False))
    except (OSError, NotJSON, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:80]
        return {"problem": f"{path}: damaged ({reason}); repeat the command of the comparison"}
    by_method: dict[str, list[_Trial]] = {}
    for trial in trials:
        by_method.setdefault(trial.method, []).append(trial)
    if not by_method:
        return None
    metric = metric_of(trials[0].metric)
    best = {label: _best(several, metric) for label, several in by_method.items()}
    rows = [_row(label, several, best[label], metric) for label, several in by_method.items()]
    return {"problem": None, "header": header(metric), "rows": rows, "notes": _notes(rows, best, metric, summary)}


def _best(trials: list[_Trial], metric: Metric) -> _Trial | None:
    valued = [trial for trial in trials if trial.value is not None]
    return max(valued, key=lambda trial: (trial.value or 0.0) * (metric.direction or 1), default=None)


def _row(label: str, trials: list[_Trial], best: _Trial | None, metric: Metric) -> dict[str, str]:
    row = {"method": label, "trials": f"{len(trials)} ({100 * min(1.0, len(trials) / trials[0].grid):.0f} %)"}
    if best is None or best.value is None:
        return {**row, "value": DASH, "settings": DASH, "edge": DASH}
    return {
        **row,
        "value": number(best.value, metric),
        "settings": ", ".join(f"{name} {_written(one)}" for name, one in best.settings.items()),
        "edge": ", ".join(best.at_edge) or "none",
    }


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(rows: list[dict[str, str]], best: dict[str, _Trial | None], metric: Metric, summary: Summary) -> list[str]:
    """How to read the table, and how well validation predicts the held-out data."""
    notes = ["In brackets: the share of the method's grid that its trials cover; it differs between methods."]
    edges = Counter(name for one in best.values() if one is not None for name in one.at_edge)
    if edges:
        listed = ", ".join(f"{name} ({count})" for name, count in edges.most_common())
        notes.append(f"Chosen settings at the edge of their range, so that a better value may lie beyond: {listed}.")
    tested = {line.label: line.cells[metric.name].mean for line in summary.methods if metric.name in line.cells}
    pairs = [(one.value, tested.get(label)) for label, one in best.items() if one is not None]
    known = [(seen, test) for seen, test in pairs if seen is not None and test is not None]
    if len(known) >= _FEWEST and all(len(set(values)) > 1 for values in zip(*known, strict=True)):
        rho = float(stats.spearmanr(*zip(*known, strict=True)).statistic)
        if math.isfinite(rho):
            what = f"Spearman's correlation of validation and held-out {metric.label} over {len(known)} methods"
            notes.append(f"{what}: {number(rho, metric_of('kendall_tau'))}.")
    return notes
