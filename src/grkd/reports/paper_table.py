"""The layout of the paper's Table 1 for any models: teacher, student, methods; five metrics, gains over the student.

Source of the layout: arXiv 2504.20482, Table 1.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grkd.errors import UserError
from grkd.reports._paper_figures import NAMES, PAPER, PaperFigures
from grkd.reports.evaluations import Evaluation

Format = Literal["markdown", "latex", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)

_ALIASES = {"before": "student", "standardkd": "kd"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: which metric of which task (the first that is there), and what makes it the unit shown."""

    name: str
    title: str
    task: str
    metrics: tuple[str, ...]
    scale: float = 1.0


COLUMNS = (
    Column(
        name="alpaca_eval_lc_percent",
        title="AlpacaEval 2 LC (%)",
        task="alpaca_eval",
        metrics=("length_controlled_win_rate",),
    ),
    Column(name="alpaca_eval_wr_percent", title="AlpacaEval 2 WR (%)", task="alpaca_eval", metrics=("win_rate",)),
    Column(name="arena_hard_wr_percent", title="Arena-Hard WR (%)", task="arena_hard", metrics=("win_rate", "score")),
    Column(name="mt_bench", title="MT-Bench (1-10)", task="mt_bench", metrics=("score",)),
    Column(name="gsm8k_percent", title="GSM8K (%)", task="gsm8k", metrics=("accuracy", "exact_match"), scale=100.0),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model's values in the columns' units, and what each gains over the student of the same source.

    key: "teacher", "student" or what the paper's row of this method is known by here.
    """

    label: str
    key: str
    values: tuple[float | None, ...]
    gains: tuple[float | None, ...]
    from_paper: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in order, and what the reader must know."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def paper_table(
    evaluations: Sequence[Evaluation],
    *,
    paper: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
) -> Table:
    """The table: teacher first, student next, then the other labels in the order in which they come.

    student, teacher: labels of those rows; by default "student" (or "before") and "teacher".
    paper: "gemma2" or "llama3" puts the paper's own row under each of ours that it has, and its other rows where they
    belong. Raises UserError for a label that is not there, an unknown pair, or no benchmark of the table at all.
    """
    if paper is not None and paper not in PAPER:
        raise UserError(f"--paper: no pair {paper!r}; the paper has {' and '.join(PAPER)}")
    ours = _measured(evaluations, student=student, teacher=teacher)
    if paper is None:
        return Table(rows=tuple(ours), notes=_notes(evaluations, ours))
    figures = PAPER[paper]
    rows = _beside(ours, figures)
    about = (
        f"Rows marked (paper) are printed in arXiv 2504.20482, Table 1, {figures.pair}; they were not measured here."
    )
    return Table(rows=tuple(rows), notes=(*_notes(evaluations, rows), about, *figures.notes))


def has_figure(evaluations: Sequence[Evaluation]) -> bool:
    """Whether any of them has a value for a column of the table."""
    return any(_value({one.task: one}, column) is not None for one in evaluations for column in COLUMNS)


def render(table: Table, form: Format) -> str:
    """The table as text that ends with a line break. Raises UserError for an unknown format."""
    if form not in _FORMS:
        raise UserError(f"--format: no format {form!r}; there are {', '.join(FORMATS)}")
    return _FORMS[form](table)


def shown(row: Row) -> list[str]:
    """A row's cells as text in the order of COLUMNS: "49.25 (+9.25)", a dash where there is no figure."""
    return _cells(row, minus="\u2212", dash="\u2013")


def role(labels: Sequence[str], given: str | None, name: str) -> str | None:
    """The label of "student" or "teacher": the one given, else the one that says so. Raises UserError for another."""
    if given is not None and given not in labels:
        raise UserError(f"--{name}: no row is labelled {given!r}; there are {', '.join(labels)}")
    return given or next((label for label in labels if _key(label) == name), None)


def markdown_text(text: str) -> str:
    """Text as Markdown shows it: one line, no markup, no cell borders."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*_`\\])", r"\\\1", plain)


def _measured(evaluations: Sequence[Evaluation], *, student: str | None, teacher: str | None) -> list[Row]:
    by_label: dict[str, dict[str, Evaluation]] = {}
    for one in evaluations:
        by_label.setdefault(one.label, {})[one.task] = one
    values = {label: tuple(_value(tasks, column) for column in COLUMNS) for label, tasks in by_label.items()}
    if not has_figure(evaluations):
        tasks = ", ".join(dict.fromkeys(column.task for column in COLUMNS))
        raise UserError(f"no figure for the table in these runs; it shows {tasks}")
    student_label, teacher_label = (
        role(list(values), given, name) for given, name in ((student, "student"), (teacher, "teacher"))
    )
    roles = {label: role for label, role in ((teacher_label, "teacher"), (student_label, "student")) if label}
    base = values[student_label] if student_label is not None else None
    return [
        Row(
            label=label,
            key=roles.get(label) or _key(label),
            values=values[label],
            gains=_gains(values[label], None if label in roles else base),
        )
        for label in [*roles, *(label for label in values if label not in roles)]
    ]


def _value(tasks: dict[str, Evaluation], column: Column) -> float | None:
    one = tasks.get(column.task)
    found = [one.metrics[name].value for name in column.metrics if name in one.metrics] if one else []
    return found[0] * column.scale if found and found[0] is not None else None


def _gains(values: Sequence[float | None], base: Sequence[float | None] | None) -> tuple[float | None, ...]:
    if base is None:
        return (None,) * len(values)
    pairs = zip(values, base, strict=True)
    return tuple(None if value is None or start is None else value - start for value, start in pairs)


def _beside(ours: Sequence[Row], figures: PaperFigures) -> list[Row]:
    """Our rows with the paper's: each under the last of ours that it belongs to, else at its own place."""
    base = figures.rows["student"]
    printed = {
        key: Row(
            label=f"{NAMES[key]} (paper)",
            key=key,
            values=values,
            gains=_gains(values, None if key in ("teacher", "student") else base),
            from_paper=True,
        )
        for key, values in figures.rows.items()
    }
    last = {row.key: number for number, row in enumerate(ours)}
    rows: list[Row] = []
    for key in ("teacher", "student"):
        rows += [row for row in ours if row.key == key]
        rows.append(printed.pop(key))
    for number, row in enumerate(ours):
        if row.key in ("teacher", "student"):
            continue
        rows.append(row)
        if row.key in printed and last[row.key] == number:
            rows.append(printed.pop(row.key))
    return [*rows, *printed.values()]


def _key(label: str) -> str:
    """ "GRKD-seed0" -> "grkd", "Standard KD" -> "kd", "before" -> "student"."""
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"-seed\d+$", "", label.lower()))
    return _ALIASES.get(plain, plain)


def _notes(evaluations: Sequence[Evaluation], rows: Sequence[Row]) -> tuple[str, ...]:
    shown = {column.task for column in COLUMNS}
    remarks: dict[str, list[str]] = {}
    for one in evaluations:
        if one.task not in shown:
            continue
        if one.judge:
            remarks.setdefault(f"{one.task} was judged by {one.judge}", []).append(one.label)
        if one.limit is not None:
            remarks.setdefault(f"{one.task}: {one.limit} questions only", []).append(one.label)
        if not one.complete:
            remarks.setdefault(f"{one.task}: judgements are missing", []).append(one.label)
    notes = [f"{remark} ({', '.join(labels)})." for remark, labels in remarks.items()]
    if any(gain is not None for row in rows for gain in row.gains):
        notes.insert(0, "In brackets: the gain over the student. A gain alone does not make a method better.")
    elif len(rows) > 1:
        notes.insert(0, "No gains: no other row than the student's has a figure, or no row is labelled student.")
    return tuple(" ".join(note.split()) for note in notes)


def _markdown(table: Table) -> str:
    lines = [["", *(column.title for column in COLUMNS)], ["---", *["---:"] * len(COLUMNS)]]
    for row in table.rows:
        label = markdown_text(row.label)
        lines.append([f"*{label}*" if row.from_paper else label, *shown(row)])
    notes = [f"- {note}" for note in table.notes]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ([""] if notes else []) + notes) + "\n"


def _latex(table: Table) -> str:
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {note}" for note in table.notes),
        r"\begin{tabular}{l" + "r" * len(COLUMNS) + "}",
        r"\toprule",
        r" & \multicolumn{2}{c}{AlpacaEval 2} & Arena-Hard & MT-Bench & GSM8K \\",
        r"\cmidrule(lr){2-3}",
        r"Model & LC (\%) & WR (\%) & WR (\%) & (1--10) & (\%) \\",
        r"\midrule",
    ]
    for row in table.rows:
        label = _latex_text(row.label)
        cells = [rf"\textit{{{label}}}" if row.from_paper else label, *_cells(row, minus="$-$", dash="--")]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _csv(table: Table) -> str:
    """One line a row, every figure in its own field; a figure that is not there is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label", "source", *(f"{column.name}{part}" for column in COLUMNS for part in ("", "_gain"))])
    for row in table.rows:
        pairs = zip(row.values, row.gains, strict=True)
        numbers = ["" if number is None else _number(number) for pair in pairs for number in pair]
        writer.writerow([row.label, "paper" if row.from_paper else "measured", *numbers])
    return out.getvalue()


def _cells(row: Row, *, minus: str, dash: str) -> list[str]:
    cells = []
    for value, gain in zip(row.values, row.gains, strict=True):
        text = dash if value is None else _number(value)
        cells.append(text if gain is None else f"{text} ({_number(gain, sign=True)})")
    return [cell if cell == dash else cell.replace("-", minus) for cell in cells]


def _number(value: float, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.2f}"
    return text.replace("-", "+" if sign else "") if float(text) == 0 else text


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))


_FORMS: dict[str, Callable[[Table], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
