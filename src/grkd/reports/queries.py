"""Rankers of lists compared query by query: paired tests over a run's held-out queries, and `grkd table` of them."""

import csv
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json, read_json
from grkd.metrics.registry import METRICS
from grkd.reports.evaluation_report import comparison_json, paired_markdown
from grkd.reports.item_measures import ItemMeasure
from grkd.reports.paired import ALL_PAIRS_UP_TO, Paired, PairedComparison, corrected
from grkd.reports.results import BEFORE, Run, read_run
from grkd.reports.tables import markdown_table
from grkd.statistics import paired_bootstrap

Values = dict[str, NDArray[np.float64]]  # label -> a value per held-out query, the mean over seeds

_FORMATS = ("markdown", "json", "csv")
# What is tested; the run's table has the rest.
_TESTED = ("corpus_ndcg10", "list_ndcg10", "kendall_tau")
_NOTES = (
    "Per query the mean over a method's seeds, the same queries for both methods. [low, high]: 95 % bootstrap interval "
    "of the mean difference, queries drawn again; p: the same bootstrap. It says what other queries would change, not "
    "what other seeds would.",
    'p (Holm) is corrected over all pairs of methods of one metric; "ahead" means that it is below 0.05.',
)


def is_ranker_run(folder: str) -> bool:
    """Whether the folder holds the results of a `task: rank` run."""
    path = Path(folder) / "results.json"
    try:
        return path.is_file() and parse_json(path.read_bytes(), strict=False).get("task") == "rank"
    except (NotJSON, AttributeError):
        return False


def ranker_table(folders: Sequence[str], form: str) -> str:
    """markdown: each run's table and paired comparisons; json: both as plain values; csv: a line per query of one run.

    Raises UserError for a folder that holds no ranker's run, and for another format.
    """
    for folder in folders:
        if not is_ranker_run(folder):
            raise UserError(f"{folder}: holds no finished ranker's run; give rankers' runs alone, or evaluations alone")
    if form not in _FORMATS:
        raise UserError(f"--format {form}: rankers' runs are shown as {', '.join(_FORMATS)}")
    runs = [read_run(Path(folder)) for folder in folders]
    if form == "csv":
        if len(runs) > 1:
            raise UserError("--format csv: has the queries of one run; give one folder")
        return queries_csv(runs[0])
    if form == "json":
        found = [
            {
                "title": run.title,
                "rows": [vars(row) for row in run.rows],
                "comparisons": [comparison_json(one) for one in compare_queries(run).comparisons],
            }
            for run in runs
        ]
        return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    parts = [f"**{run.title}**\n\n{markdown_table(run)}\n{paired_markdown(compare_queries(run))}" for run in runs]
    return "\n".join(parts)


def compare_queries(run: Run) -> Paired:
    """All paired tests of a ranker's run: each pair of up to four methods, of more those with the best of a metric.

    Damaged files are a note.
    """
    shown: list[PairedComparison] = []
    try:
        every = {metric: query_values(run, metric) for metric in _TESTED}
    except (OSError, ValueError, BadZipFile) as error:
        return Paired(notes=(f"evaluate/*/queries.npz cannot be read: {error or type(error).__name__}",))
    for metric, values in every.items():
        measure = ItemMeasure(task="rank", task_title="held-out queries", metric=METRICS[metric], key=metric)
        found = corrected([_compared(measure, a, b, values) for a, b in itertools.combinations(values, 2)])
        if len(values) > ALL_PAIRS_UP_TO:
            best = max(values, key=lambda label: float(np.nanmean(values[label])))
            found = [one for one in found if best in (one.a, one.b)]
        shown += found
    return Paired(comparisons=tuple(shown), notes=_NOTES if shown else ())


def query_values(run: Run, metric: str) -> Values:
    """Per method that has it, and the student before: values per held-out query, means over its complete seeds.

    Raises UserError for a file of another number of queries.
    """
    found: Values = {}
    for label in (BEFORE, *run.labels):
        names = [label] if label == BEFORE else [f"{label}-seed{seed}" for seed in run.seeds(label)]
        columns = [column for name in names if (column := _column(run, name, metric)) is not None]
        if columns:
            found[label] = np.mean(columns, axis=0)
    if len({len(column) for column in found.values()}) > 1:
        raise UserError(f"{run.folder}: evaluate/*/queries.npz hold different numbers of queries; run it again")
    return found


def queries_csv(run: Run) -> str:
    """A line per held-out query and metric: its text, and the value of each method."""
    texts = read_json(run.folder / "evaluate" / BEFORE / "queries.json")
    labels = [BEFORE, *run.labels]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["query", "metric", *labels])
    for metric in METRICS:
        values = query_values(run, metric)
        for place, query in enumerate(texts if values else []):
            cells = [values[label][place] if label in values else np.nan for label in labels]
            row = ["" if np.isnan(cell) else f"{cell:.6g}" for cell in cells]
            table.writerow([query, metric, *row])
    return text.getvalue()


def _compared(measure: ItemMeasure, a: str, b: str, values: Values) -> PairedComparison:
    """b less a, as other comparisons: the later method less the earlier one."""
    known = ~(np.isnan(values[a]) | np.isnan(values[b]))
    found = paired_bootstrap(values[b][known], values[a][known])
    scale = measure.metric.scale
    return PairedComparison(
        measure=measure,
        a=b,
        b=a,
        items=int(known.sum()),
        difference=found.difference * scale,
        low=found.low * scale,
        high=found.high * scale,
        p=found.p,
    )


def _column(run: Run, name: str, metric: str) -> NDArray[np.float64] | None:
    path = run.folder / "evaluate" / name / "queries.npz"
    if not path.exists() or run.status.get(name, "done") != "done":
        return None
    with np.load(path) as kept:
        return kept[metric].astype(np.float64) if metric in kept else None
