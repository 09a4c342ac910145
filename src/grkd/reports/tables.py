"""The summary table of a run: in the terminal, in Markdown, and as cells for the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from grkd.metrics.registry import GROUPS, Metric
from grkd.reports.results import BEFORE, TEACHER, Run
from grkd.reports.seeds import LEAST_SEEDS
from grkd.reports.summary import Cell, Line, Summary, summarise

DASH, MINUS = "\u2013", "\u2212"
_ARROWS = {1: "\u00a0↑", -1: "\u00a0↓", 0: ""}
_NAMES = {BEFORE: "student before", TEACHER: "teacher"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A cell as text: "91.20" + "± 0.41" + "(+2.10)"; `note` says which seeds it lacks."""

    value: str
    spread: str = ""
    difference: str = ""
    note: str = ""
    best: bool = False
    better: bool = False  # than every other method, at 5 % after Holm's correction

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.value, self.spread, self.difference, self.note) if part)


def print_tables(runs: Sequence[Run], console: Console) -> None:
    """Each run's table and what it supports."""
    for run in runs:
        summary = summarise(run)
        console.print(Text(run.title, style="bold"))
        if summary.lines:
            for number, lines in enumerate(_that_fit(summary, console)):
                console.print(*([""] if number else []), _rich_table(summary, lines), sep="\n")
        else:
            console.print(run.without_results)
        for note in footnotes(summary):
            console.print(Text(note, style="dim"))
        for name, reason in run.failures.items():
            console.print(f"[red]failed[/red] {escape(name)}: {escape(reason)}")
        if run.missing:
            console.print(Text(f"Not available: {', '.join(run.missing)}.", style="dim"))
        console.print()


def markdown_table(run: Run) -> str:
    """The same table in Markdown; the best value of a column is bold, ✓ marks a supported "better"."""
    summary = summarise(run)
    if not summary.lines:
        return f"{run.without_results}\n"
    heads = ["", *(header(metric) for metric in summary.metrics), *costs(summary)]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for line in summary.lines:
        shown = [show(line.cells[metric.name], metric, summary) for metric in summary.metrics]
        cells = [f"**{cell.text}**{' ✓' if cell.better else ''}" if cell.best else cell.text for cell in shown]
        table.append([_plain(name_of(line.label)), *cells, *(cost(line, name) for name in costs(summary))])
    lines = ["| " + " | ".join(row) + " |" for row in table]
    failed = [f"failed, {name}: {reason}" for name, reason in run.failures.items()]
    return "\n".join([*lines, "", *(f"- {_plain(note)}" for note in [*footnotes(summary), *failed])]) + "\n"


def header(metric: Metric) -> str:
    unit = f"\u00a0({metric.unit})" if metric.unit else ""
    return f"{metric.label}{unit}{_ARROWS[metric.direction]}"


def name_of(label: str) -> str:
    return _NAMES.get(label, label)


def show(cell: Cell, metric: Metric, summary: Summary) -> Shown:
    """A cell in the metric's shown unit; a value that is not there is a dash."""
    if cell.mean is None:
        return Shown(value=DASH)
    verdict = summary.verdicts.get(metric.name)
    spread = ""
    if cell.half_width is not None:
        spread = f"± {number(cell.half_width, metric)}"
    elif cell.interval is not None:
        spread = f"[{number(cell.interval[0], metric)}, {number(cell.interval[1], metric)}]"
    return Shown(
        value=number(cell.mean, metric),
        spread=spread,
        difference=f"({number(cell.difference, metric, sign=True)})" if cell.difference is not None else "",
        note="" if cell.complete else f"{len(cell.values)} of {cell.seeds_tried} seeds",
        best=cell.best,
        better=cell.best and verdict is not None and verdict.better,
    )


def with_unit(text: str, unit: str) -> str:
    """No line breaks inside a value."""
    return text.replace(" ", "\u00a0") + (f"\u00a0{unit}" if unit else "")


def number(value: float, metric: Metric, *, sign: bool = False) -> str:
    """A value in the metric's shown unit."""
    return fixed(value * metric.scale, metric.decimals, sign=sign)


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number with a true minus sign, which zero has not; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return (text.replace("-", "+" if sign else "") if float(text) == 0 else text).replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share to a tenth of a percent."""
    return DASH if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """ "48 s", "12 min 05 s", "3 h 20 min"."""
    if seconds is None:
        return DASH
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def footnotes(summary: Summary) -> list[str]:
    """How to read the table, and what the seeds support."""
    cells = [cell for line in summary.lines for cell in line.cells.values()]
    notes = []
    if any(cell.over_seeds and cell.interval is not None for cell in cells):
        notes.append("±: half-width of the 95 % interval of the mean over seeds (Student t).")
    if any(cell.over_seeds and cell.half_width is None and cell.interval is not None for cell in cells):
        notes.append("[low, high]: the same interval, cut at the limits of the metric's range.")
    if any(not cell.over_seeds and cell.interval is not None for cell in cells):
        notes.append(f"[low, high]: {bootstrapped(summary)}")
    if summary.baseline is not None and any(cell.difference is not None for cell in cells):
        base = "the student before distillation" if summary.baseline == BEFORE else f"the method {summary.baseline}"
        notes.append(f"(difference): relative to {base}.")
    if any(not cell.complete for cell in cells if cell.mean is not None):
        notes.append("A method with missing seeds shows the mean of the others; it is neither marked nor tested.")
    if any(metric.name.startswith(tuple(GROUPS)) for metric in summary.metrics):
        notes.append(
            "Accuracy on a group: on the examples of its classes, with every class to choose from. Accuracy within a "
            "group: on the same examples, with only the group's classes to choose from."
        )
    return [*notes, *_verdict_notes(summary), *_worse_notes(summary)]


def bootstrapped(summary: Summary) -> str:
    """What an interval of a single run is."""
    over = "queries" if summary.task == "rank" else "prompts or examples"
    return f"95 % bootstrap interval over the held-out {over}; it does not cover the variation between seeds."


def and_list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verdict_notes(summary: Summary) -> list[str]:
    if not summary.verdicts:
        return []
    notes = ["The best value of a column is marked; this alone does not show that a method is better."]
    tested = [verdict for verdict in summary.verdicts.values() if verdict.tested]
    if not tested:
        few = "One seed" if summary.most_seeds < 2 else "Fewer than three seeds"
        why = few if summary.most_seeds < LEAST_SEEDS else "No two methods have the same seeds"
        return [*notes, f"{why}: no claim that a method is better than another."]
    if any(verdict.better_than for verdict in tested):
        notes.append(
            "“Better” means significant at 5 % in a paired t test over seeds, with Holm's correction over a column's "
            "comparisons. This holds for these held-out data; other data were not tested."
        )
    said: dict[str, list[str]] = {}
    for verdict in tested:
        if verdict.better_than:
            near = verdict.not_better_than
            rest = f", with no significant difference to {and_list(near)}" if near else ""
            claim = f"{verdict.best} is better than {and_list(verdict.better_than)}{rest}"
            said.setdefault(claim, []).append(verdict.metric.label)
    notes += [f"{claim}: {', '.join(labels)}." for claim, labels in said.items()]
    none = [verdict.metric.label for verdict in tested if not verdict.better_than]
    if none:
        notes.append(f"No significant difference between the best method and the others: {', '.join(none)}.")
    return notes


def _worse_notes(summary: Summary) -> list[str]:
    """Metrics in which no method is better than the student before, so that none is marked."""
    before = summary.line(BEFORE)
    if before is None or len(summary.methods) < 2:
        return []
    found = []
    for metric in summary.metrics:
        complete = [cell for line in summary.methods if (cell := line.cells[metric.name]).complete and cell.values]
        marked = any(cell.best for cell in complete)
        if metric.direction and before.cells[metric.name].mean is not None and len(complete) > 1 and not marked:
            found.append(metric.label)
    return [f"No method is better than the student before distillation: {', '.join(found)}."] if found else []


def costs(summary: Summary) -> list[str]:
    """Names of the columns that say what a training took: those that any method has."""
    unit = {"classifier": "examples", "rank": "lists"}.get(summary.task or "", "tokens")
    kinds = {f"{unit} seen": "rows_seen", "training time": "seconds"}
    return [name for name, kind in kinds.items() if any(getattr(line, kind) is not None for line in summary.lines)]


def cost(line: Line, name: str) -> str:
    """A training's cost in one of those columns, for people."""
    return duration(line.seconds) if name == "training time" else count(line.rows_seen)


def count(rows: float | None, units: Sequence[str] = ("k", "M", "G"), one: str = "") -> str:
    """ "950", "12.3 k", "4.56 M". units: a thousand, a million, a billion; one: behind smaller numbers."""
    if rows is None:
        return DASH
    for size, unit in zip((1e9, 1e6, 1e3), reversed(units), strict=True):
        if float(f"{rows:.3g}") >= size:  # as it is shown: 999,600 is 1 M
            return f"{rows / size:.3g} {unit}"
    return f"{rows:.0f}{one}"


def _that_fit(summary: Summary, console: Console) -> list[list[Line]]:
    """The lines in as few tables as the terminal's width allows, one at least in each."""
    any_width = console.options.update(max_width=100_000)
    found: list[list[Line]] = [[]]
    for line in summary.lines:
        wider = [*found[-1], line]
        if found[-1] and Measurement.get(console, any_width, _rich_table(summary, wider)).maximum > console.width:
            found.append([line])
        else:
            found[-1] = wider
    return found


def _rich_table(summary: Summary, lines: Sequence[Line]) -> Table:
    """Metrics down and methods across: a terminal has room for few columns."""
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    for line in lines:
        style = "bold" if line.kind == "method" else "dim"
        table.add_column(Text(name_of(line.label), style=style), justify="right", no_wrap=True)
    for metric in summary.metrics:
        table.add_row(Text(header(metric)), *(_rich_cell(line.cells[metric.name], metric, summary) for line in lines))
    for name in costs(summary):
        table.add_row(name, *(cost(line, name) for line in lines))
    return table


def _rich_cell(cell: Cell, metric: Metric, summary: Summary) -> Text:
    shown = show(cell, metric, summary)
    style = "bold green" if shown.better else "bold" if shown.best else ""
    text = Text(shown.value + (" ✓" if shown.better else " •" if shown.best else ""), style=style)
    for part in (shown.spread, shown.difference, shown.note):
        text.append(f"\n{part}" if part else "", style="not bold dim")
    return text


def _plain(text: str) -> str:
    """Text that Markdown leaves alone: one line, no cell borders, no HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", "\\|").replace("*", "\\*")
