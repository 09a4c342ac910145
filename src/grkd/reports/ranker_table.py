"""`grkd table` of rankers' runs: their tables, and paired tests over the held-out queries."""

import json
from collections.abc import Sequence
from pathlib import Path

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json
from grkd.reports.evaluation_report import comparison_json, paired_markdown
from grkd.reports.queries import compare_queries, queries_csv
from grkd.reports.results import read_run
from grkd.reports.tables import markdown_table

_FORMATS = ("markdown", "json", "csv")


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
