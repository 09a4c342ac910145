"""The layout of the paper's Table 1 for any models: teacher, student, methods; five metrics, gains over the student.

Source of the layout: arXiv 2504.20482, Table 1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grkd.benchmarks import Column, all_benchmarks
from grkd.benchmarks.lm_eval import PREFIX, column_of
from grkd.errors import UserError
from grkd.reports._paper_figures import COLUMN_NAMES, NAMES, PAPER, PaperResults
from grkd.reports.evaluations import Evaluation

_ALIASES = {"before": "student", "standardkd": "kd"}


@dataclass(frozen=True, kw_only=True)
class TableColumn(Column):
    """A column of a benchmark in the table."""

    task: str
    task_title: str

    @property
    def title(self) -> str:
        return " ".join(filter(None, [self.task_title, self.heading, f"({self.unit})" if self.unit else ""]))


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A model's values in the columns' units, and what each gains over the student of the same source.

    key: "teacher", "student" or what the paper's row of this method is known by here.
    """

    label: str
    key: str
    values: tuple[float | None, ...]
    gains: tuple[float | None, ...]
    from_paper: bool = False


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """Columns and rows in order, and what the reader must know."""

    columns: tuple[TableColumn, ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]


def paper_table(
    evaluations: Sequence[Evaluation],
    *,
    paper: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
) -> PaperTable:
    """The table: teacher first, student next, then the other labels in the order in which they come.

    student, teacher: labels of those rows; by default "student" (or "before") and "teacher".
    paper: "gemma2" or "llama3" puts the paper's own row under each of ours that it has, and its other rows where they
    belong. Raises UserError for a label that is not there, an unknown pair, or no benchmark of the table at all.
    """
    if paper is not None and paper not in PAPER:
        raise UserError(f"--paper: no pair {paper!r}; the paper has {' and '.join(PAPER)}")
    columns = _columns(evaluations)
    ours = _measured(evaluations, columns, student=student, teacher=teacher)
    if paper is None:
        return PaperTable(columns=columns, rows=tuple(ours), notes=_notes(evaluations, columns, ours))
    figures = PAPER[paper]
    rows = _beside(ours, columns, figures)
    about = (
        f"Rows marked (paper) are printed in arXiv 2504.20482, Table 1, {figures.pair}; they were not measured here."
    )
    notes = (*_notes(evaluations, columns, rows), about, *figures.notes)
    return PaperTable(columns=columns, rows=tuple(rows), notes=notes)


def _columns(evaluations: Sequence[Evaluation]) -> tuple[TableColumn, ...]:
    """Columns that are always shown, and those for which a model has a value, in the benchmarks' order."""
    return tuple(one for one in _all_columns(evaluations) if one.always or _has_value(evaluations, one))


def _all_columns(evaluations: Sequence[Evaluation]) -> list[TableColumn]:
    """Of every benchmark, and of the tasks of lm-eval in these evaluations."""
    own = dict.fromkeys(one.task for one in evaluations if one.task.startswith(PREFIX))
    return [
        TableColumn(task=name, task_title=benchmark.title, **vars(column))
        for name, benchmark in all_benchmarks().items()
        for column in benchmark.columns
    ] + [TableColumn(task=name, task_title=name.removeprefix(PREFIX), **vars(column_of(name))) for name in own]


def _has_value(evaluations: Sequence[Evaluation], column: TableColumn) -> bool:
    return any(_value({one.task: one}, column) is not None for one in evaluations)


def has_value(evaluations: Sequence[Evaluation]) -> bool:
    """Whether any of them has a value for a column of the table."""
    return any(_has_value(evaluations, column) for column in _all_columns(evaluations))


def role(labels: Sequence[str], given: str | None, name: str) -> str | None:
    """The label of "student" or "teacher": the one given, else the one that says so. Raises UserError for another."""
    if given is not None and given not in labels:
        raise UserError(f"--{name}: no row is labelled {given!r}; there are {', '.join(labels)}")
    return given or next((label for label in labels if _key(label) == name), None)


def _measured(
    evaluations: Sequence[Evaluation], columns: Sequence[TableColumn], *, student: str | None, teacher: str | None
) -> list[PaperRow]:
    by_label: dict[str, dict[str, Evaluation]] = {}
    for one in evaluations:
        by_label.setdefault(one.label, {})[one.task] = one
    values = {label: tuple(_value(tasks, column) for column in columns) for label, tasks in by_label.items()}
    if not has_value(evaluations):
        tasks = ", ".join(dict.fromkeys(column.task for column in _all_columns(evaluations)))
        raise UserError(f"no metric for the table in these runs; it shows {tasks}")
    student_label, teacher_label = (
        role(list(values), given, name) for given, name in ((student, "student"), (teacher, "teacher"))
    )
    roles = {label: role for label, role in ((teacher_label, "teacher"), (student_label, "student")) if label}
    base = values[student_label] if student_label is not None else None
    return [
        PaperRow(
            label=label,
            key=roles.get(label) or _key(label),
            values=values[label],
            gains=_gains(values[label], None if label in roles else base),
        )
        for label in [*roles, *(label for label in values if label not in roles)]
    ]


def _value(tasks: dict[str, Evaluation], column: TableColumn) -> float | None:
    one = tasks.get(column.task)
    found = [one.metrics[name].value for name in column.metrics if name in one.metrics] if one else []
    return found[0] * column.scale if found and found[0] is not None else None


def _gains(values: Sequence[float | None], base: Sequence[float | None] | None) -> tuple[float | None, ...]:
    if base is None:
        return (None,) * len(values)
    pairs = zip(values, base, strict=True)
    return tuple(None if value is None or start is None else value - start for value, start in pairs)


def _beside(ours: Sequence[PaperRow], columns: Sequence[TableColumn], figures: PaperResults) -> list[PaperRow]:
    """Interleave the paper's rows: each follows our last row of the same method; unmatched ones come at the end."""
    values_of = {
        key: tuple(dict(zip(COLUMN_NAMES, values, strict=True)).get(column.name) for column in columns)
        for key, values in figures.rows.items()
    }
    base = values_of["student"]
    printed = {
        key: PaperRow(
            label=f"{NAMES[key]} (paper)",
            key=key,
            values=values,
            gains=_gains(values, None if key in ("teacher", "student") else base),
            from_paper=True,
        )
        for key, values in values_of.items()
    }
    last = {row.key: number for number, row in enumerate(ours)}
    rows: list[PaperRow] = []
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


def _notes(
    evaluations: Sequence[Evaluation], columns: Sequence[TableColumn], rows: Sequence[PaperRow]
) -> tuple[str, ...]:
    shown = {column.task for column in columns}
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
        notes.insert(0, "No gains: only the student's row has numbers, or no row is labelled student.")
    return tuple(" ".join(note.split()) for note in notes)
