"""`grkd groups`: the responses of a prompt in the teacher's order and in the student's."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grkd.errors import UserError

if TYPE_CHECKING:
    from grkd.console import Output
    from grkd.reports.groups import GroupView

SUMMARY = "show groups of responses in the teacher's and the student's order"
DESCRIPTION = """\
Show groups of responses, best first, with every ranker's score and each student's rank before and after training.
A response that a student ranks in the wrong order with another one is marked with *.

  grkd groups runs/mine                            # the first held-out groups, before and after training
  grkd groups runs/mine --prompt heldout/12        # one group, with full responses
  grkd groups runs/mine --students before,kd-seed0 # only these students
  grkd groups runs/mine --train grkd-seed0         # groups that this student sampled during training
"""

_LEAST_TEXT = 24  # columns for responses; where less is left they stand below the table
_STUDENTS = 4  # columns that a terminal has room for beside the responses


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder")
    add("--prompt", metavar="ID", help="show only the group of this prompt")
    add("--students", metavar="A,B", help=f"students to show (default: the first {_STUDENTS}, one seed of each method)")
    add("--train", metavar="STUDENT", help="show groups sampled while training this student, such as grkd-seed0")
    add("--step", type=int, metavar="N", help="with --train: only groups of this optimiser step")
    add("--limit", type=int, default=3, metavar="N", help="number of groups to show (default: 3)")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.console import Output
    from grkd.reports.groups import held_out_groups, tally, training_groups
    from grkd.reports.tables import percent

    if options.step is not None and options.train is None:
        raise UserError("--step needs --train STUDENT")
    if options.limit < 1:
        raise UserError(f"--limit must be 1 or more, got {options.limit}")
    groups = training_groups(options.run, options.train) if options.train else held_out_groups(options.run)
    of_prompt = [group for group in groups if options.prompt in (None, group.id)]
    if not of_prompt:
        known = ", ".join(dict.fromkeys(group.id for group in groups[:5]))
        raise UserError(f"no such group in {options.run}; there are {len(groups)}, such as {known}")
    shown = [group for group in of_prompt if options.step in (None, group.step)]
    if not shown:
        steps = sorted({group.step for group in of_prompt if group.step is not None})
        known = ", ".join(map(str, steps)) if len(steps) < 10 else f"{steps[0]} to {steps[-1]}"
        of = "" if options.prompt is None else f" of {options.prompt}"
        raise UserError(f"no groups of step {options.step}; there are groups{of} of steps {known}")
    out = Output(highlight=False)
    names = _students(list(groups[0].students), options.students)
    for group in shown[: options.limit]:
        _print(out, group, names, whole=options.prompt is not None)
    for student in groups[0].students:
        wrong, pairs = tally(groups, student)
        share = f" ({percent(wrong / pairs)})" if pairs else ""
        out.print(f"{student}: {wrong} of {pairs} pairs swapped{share}, over {len(groups)} groups", markup=False)
    if options.students is None and len(names) < len(groups[0].students):
        out.print(
            f"{len(groups[0].students) - len(names)} more students; --students A,B shows those named", markup=False
        )
    if len(shown) > options.limit:
        out.print(f"{len(shown) - options.limit} more groups; --limit N shows N, --prompt ID shows one")
    return 0


def _students(known: list[str], asked: str | None) -> list[str]:
    """The students to show. Raises UserError for one that the run has not."""
    if asked is None:
        seeds = {name: name.rpartition("-seed")[2] for name in known}
        first = min((int(seed) for seed in seeds.values() if seed.isdecimal()), default=0)
        return [name for name, seed in seeds.items() if seed == str(first) or not seed.isdecimal()][:_STUDENTS]
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--students: no {name[:60]!r} among the run's students: {', '.join(known)[:250]}")
    return names


def _print(out: "Output", group: "GroupView", students: list[str], *, whole: bool) -> None:
    """One group as a table."""
    from rich.table import Column, Table
    from rich.text import Text

    students = [student for student in students if student in group.students]
    place = "" if group.step is None else f"step {group.step}, "
    out.print(Text(f"{place}{group.id}: {group.prompt}"), overflow="fold")
    names = [*group.by_ranker, *students]
    if sum(len(name) + 3 for name in names) > out.width // 2:  # numbers are never cut, so long names stand above
        letters = [chr(ord("A") + at % 26) + str(at // 26 or "") for at in range(len(names))]
        out.print(Text(", ".join(f"{letter}: {name}" for letter, name in zip(letters, names, strict=True))))
        names = letters
    marked = {student: {one for pair in group.swapped(student) for one in pair} for student in students}
    rows, texts = [], []
    for number, at in enumerate(group.order(), start=1):
        cells = [str(number), _number(group.scores[at])]
        cells += [_number(scores[at]) for scores in group.by_ranker.values()]
        for student in students:
            rank = group.rank(student, at)
            mark = "*" if at in marked[student] else ""
            cells.append("-" if rank is None else f"{rank}{mark} ({_number(group.students[student][at])})")
        rows.append(cells)
        text = group.responses[at] if whole else " ".join(group.responses[at].split())
        texts.append(text if whole or len(text) <= 160 else text[:157] + "...")
    heads = ["#", "score", *names]
    taken = sum(max(len(row[at]) for row in (heads, *rows)) + 3 for at in range(len(heads)))
    beside = out.width - taken >= _LEAST_TEXT
    table = Table(*(Column(name, no_wrap=True) for name in heads), *(["response"] if beside else []))
    for cells, text in zip(rows, texts, strict=True):
        table.add_row(*map(Text, cells), *([Text(text)] if beside else []))
    out.print(table)
    for cells, text in zip(rows, texts, strict=True) if not beside else ():
        out.print(Text(f"{cells[0]}: {text}"), overflow="fold")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
