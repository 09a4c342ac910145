"""The benchmarks of several models as one report: the paper's table, and which differences are more than chance.

In Markdown, LaTeX, CSV and JSON, in the terminal, and as plain values for the page.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from grkd.errors import UserError
from grkd.reports.evaluations import Evaluation
from grkd.reports.paired import Paired, PairedComparison, compare
from grkd.reports.paper_table import PaperTable, has_value, paper_table, role
from grkd.reports.table_formats import FORMATS, markdown_text, shown
from grkd.reports.table_formats import render as render_table
from grkd.reports.tables import DASH, MINUS, fixed

ALL_FORMATS = (*FORMATS, "json")
NONE_SHOWN = "none shown"  # where no model is shown to be ahead

_HEADERS = ("metric", "models", "items", "difference", "95 % interval", "p", "p (Holm)", "verdict")


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """table: without columns if the evaluations hold no metric of it, but items that can be compared."""

    table: PaperTable
    paired: Paired


def evaluation_report(
    evaluations: Sequence[Evaluation],
    *,
    paper: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
) -> EvaluationReport:
    """The table (see paper_table) and the paired comparisons. Raises UserError as paper_table, for neither of them."""
    labels = list(dict.fromkeys(one.label for one in evaluations))
    base, best = role(labels, student, "student"), role(labels, teacher, "teacher")
    # The student first, so that differences are gains over it.
    paired = compare(sorted(evaluations, key=lambda one: one.label != base), teacher=best)
    if paired.comparisons and paper is None and not has_value(evaluations):
        return EvaluationReport(table=PaperTable(columns=(), rows=(), notes=()), paired=paired)
    table = paper_table(evaluations, paper=paper, student=student, teacher=teacher)
    return EvaluationReport(table=table, paired=paired)


def render(found: EvaluationReport, form: str) -> str:
    """As text that ends with a line break; what a LaTeX or CSV table has no room for is in `remarks`.

    Raises UserError for an unknown format, and where there is no table for LaTeX or CSV.
    """
    if form == "json":
        return json.dumps(as_json(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "markdown":
        parts = [render_table(found.table, "markdown")] if found.table.columns else []
        return "\n".join([*parts, *([paired_markdown(found.paired)] if _any(found.paired) else [])])
    if form not in FORMATS:
        raise UserError(f"--format: no format {form!r}; there are {', '.join(ALL_FORMATS)}")
    if not found.table.columns:
        raise UserError(f"--format {form}: these runs have no metric of the table; use markdown or json")
    text = render_table(found.table, "latex" if form == "latex" else "csv")
    return "".join(f"% {line}\n" for line in found.paired.verdicts) + text if form == "latex" else text


def remarks(found: EvaluationReport) -> tuple[str, ...]:
    """What goes beside a CSV table: the table's notes, and who is ahead."""
    return (*found.table.notes, *found.paired.verdicts)


def as_json(found: EvaluationReport) -> dict[str, Any]:
    """Rows of the table, comparisons with their p-values, and notes, as plain values; None if there is no number."""
    names = [column.name for column in found.table.columns]
    return {
        "rows": [
            {
                "label": row.label,
                "source": "paper" if row.from_paper else "measured",
                "values": dict(zip(names, row.values, strict=True)),
                "gains": dict(zip(names, row.gains, strict=True)),
            }
            for row in found.table.rows
        ],
        "comparisons": [comparison_json(one) for one in found.paired.comparisons],
        "notes": [*found.table.notes, *found.paired.notes],
    }


def paired_view(paired: Paired) -> dict[str, Any] | None:
    """The comparisons as cells for the page; None if there is nothing to say."""
    if not _any(paired):
        return None
    rows = [{"cells": _cells(one), "ahead": one.ahead is not None} for one in paired.comparisons]
    return {"headers": _HEADERS, "rows": rows, "notes": paired.notes}


def print_evaluations(found: EvaluationReport, console: Console) -> None:
    """The table, models across, and the comparisons below."""
    if found.table.columns:
        table = RichTable(show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("")
        for row in found.table.rows:
            table.add_column(Text(row.label, style="dim" if row.from_paper else "bold"), justify="right")
        cells = [shown(row) for row in found.table.rows]
        for number, column in enumerate(found.table.columns):
            table.add_row(column.title, *(row[number] for row in cells))
        _print(console, "Benchmarks", table, found.table.notes)
    if _any(found.paired):
        table = RichTable("metric", "models", show_edge=False, pad_edge=False, header_style="bold")
        for name in ("difference", "p (Holm)", "ahead"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in found.paired.comparisons:
            figure, models, items, difference, interval, _, p, _ = map(escape, _cells(one))
            ahead = NONE_SHOWN if one.ahead is None else escape(one.ahead)
            style = "" if one.ahead is None else "bold"
            table.add_row(figure, f"{models}\n{items} items", f"{difference}\n{interval}", p, ahead, style=style)
        _print(console, "Paired comparisons", table, found.paired.notes)


def _print(console: Console, title: str, table: RichTable, notes: Sequence[str]) -> None:
    console.print(Text(title, style="bold"))
    if table.row_count:
        console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"))
    console.print()


def _any(paired: Paired) -> bool:
    return bool(paired.comparisons or paired.notes)


def paired_markdown(paired: Paired) -> str:
    """The comparisons and their notes."""
    lines = []
    if paired.comparisons:
        lines = [[*_HEADERS], ["---", "---", *["---:"] * 5, "---"]]
        lines += [[markdown_text(cell) for cell in _cells(one)] for one in paired.comparisons]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    notes = [f"- {markdown_text(note)}" for note in paired.notes]
    return "\n".join(["**Paired comparisons**", "", *table, *([""] if table else []), *notes]) + "\n"


def _cells(one: PairedComparison) -> list[str]:
    """In the order of _HEADERS."""
    decimals = one.measure.metric.decimals
    low, high, difference = (fixed(value, decimals, sign=True) for value in (one.low, one.high, one.difference))
    p = _p(one.p) if one.only_right is None else f"{_p(one.p)} ({one.only_right[0]} : {one.only_right[1]})"
    ahead = one.ahead
    return [
        one.measure.title,
        f"{one.a} {MINUS} {one.b}",
        f"{one.items:,}",
        difference,
        f"[{low}, {high}]",
        p,
        _p(one.p_holm),
        NONE_SHOWN if ahead is None else f"{ahead} is ahead",
    ]


def comparison_json(one: PairedComparison) -> dict[str, Any]:
    """Plain values; None for a number that is none."""
    numbers = {name: getattr(one, name) for name in ("difference", "low", "high", "p", "p_holm")}
    counts = one.only_right or (None, None)
    return {
        "task": one.measure.task,
        "figure": one.measure.metric.label,
        "unit": one.measure.metric.unit,
        "higher_is_better": one.measure.higher_is_better,
        "a": one.a,
        "b": one.b,
        "items": one.items,
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "test": "paired bootstrap" if one.only_right is None else "McNemar",
        "only_a_right": counts[0],
        "only_b_right": counts[1],
        "ahead": one.ahead,
    }


def _p(value: float) -> str:
    if math.isnan(value):
        return DASH
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
