"""The paper's table as Markdown, LaTeX and CSV."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Sequence

from grkd.errors import UserError
from grkd.reports.paper_table import PaperRow, PaperTable, TableColumn
from grkd.reports.tables import DASH, MINUS, fixed

FORMATS = ("markdown", "latex", "csv")


def render(table: PaperTable, form: str) -> str:
    """The table as text that ends with a line break. Raises UserError for an unknown format."""
    if form not in _FORMS:
        raise UserError(f"--format: no format {form!r}; there are {', '.join(FORMATS)}")
    return _FORMS[form](table)


def shown(row: PaperRow) -> list[str]:
    """A row's cells as text in the order of the columns: "49.25 (+9.25)", a dash for a missing value."""
    pairs = zip(row.values, row.gains, strict=True)
    return [fixed(value, 2) + ("" if gain is None else f" ({fixed(gain, 2, sign=True)})") for value, gain in pairs]


def markdown_text(text: str) -> str:
    """Text as Markdown shows it: one line, no markup, no cell borders."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*_`\\])", r"\\\1", plain)


def _markdown(table: PaperTable) -> str:
    lines = [["", *(column.title for column in table.columns)], ["---", *["---:"] * len(table.columns)]]
    for row in table.rows:
        label = markdown_text(row.label)
        lines.append([f"*{label}*" if row.from_paper else label, *shown(row)])
    notes = [f"- {note}" for note in table.notes]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ([""] if notes else []) + notes) + "\n"


def _latex(table: PaperTable) -> str:
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {note}" for note in table.notes),
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        *_latex_head(table.columns),
        r"\midrule",
    ]
    for row in table.rows:
        label = _latex_text(row.label)
        cells = [rf"\textit{{{label}}}" if row.from_paper else label, *map(_latex_number, shown(row))]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_head(columns: Sequence[TableColumn]) -> list[str]:
    """Two lines: benchmarks over their columns, then headings and units; a rule under each title of several columns."""
    titles, rules, at = [""], [], 2
    for _, group in itertools.groupby(columns, key=lambda column: column.task):
        size, title = len(found := list(group)), _latex_text(found[0].task_title)
        titles.append(title if size == 1 else rf"\multicolumn{{{size}}}{{c}}{{{title}}}")
        rules += [rf"\cmidrule(lr){{{at}-{at + size - 1}}}"] if size > 1 else []
        at += size
    units = [f"({_latex_text(one.unit.replace('-', '--'))})" if one.unit else "" for one in columns]
    heads = [" ".join(filter(None, [one.heading, unit])) for one, unit in zip(columns, units, strict=True)]
    return [" & ".join(titles) + r" \\", *rules, " & ".join(["Model", *heads]) + r" \\"]


def _csv(table: PaperTable) -> str:
    """One line per row, every value in its own field; a missing value is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["label", "source", *(f"{column.name}{part}" for column in table.columns for part in ("", "_gain"))]
    )
    for row in table.rows:
        pairs = zip(row.values, row.gains, strict=True)
        numbers = ["" if number is None else fixed(number, 2).replace(MINUS, "-") for pair in pairs for number in pair]
        writer.writerow([row.label, "paper" if row.from_paper else "measured", *numbers])
    return out.getvalue()


def _latex_number(text: str) -> str:
    return text.replace(MINUS, "$-$").replace(DASH, "--")


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))


_FORMS: dict[str, Callable[[PaperTable], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
