"""`grkd table`: the paper's table for any models."""

import argparse
import sys
from pathlib import Path

SUMMARY = "compare evaluated models in one table, with paired tests"
DESCRIPTION = """\
Print one table of evaluated models, in the layout of the paper's Table 1: AlpacaEval 2, Arena-Hard, MT-Bench and GSM8K
for teacher, student and methods, with gains over the student in brackets. RUN is an output folder of `grkd eval`;
LABEL=RUN names its row.

Below the table, models that answered the same items are compared: paired difference with its 95 % interval, McNemar's
test or the paired bootstrap with Holm's correction, and which model is ahead at 5 %.

RUN can also be the output folder of a `task: rank` run. Then the table has its metrics, with paired tests over the
held-out queries. As CSV, it has the values per query.

  grkd table teacher=runs/eval-9b student=runs/eval-2b grkd=runs/eval-grkd --paper gemma2
  grkd table runs/eval-* --student gemma-2-2b-it --format latex --output table1.tex
  grkd table kd=runs/eval-kd grkd=runs/eval-grkd --format json      # metrics and comparisons
  grkd table runs/ranker --format csv --output queries.csv
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("runs", nargs="+", metavar="[LABEL=]RUN", help="output folder of `grkd eval`, or of a `task: rank` run")
    add("--format", choices=("markdown", "latex", "csv", "json"), default="markdown")
    add("--paper", choices=("gemma2", "llama3"), help="also show the paper's results for this pair of models")
    add("--student", metavar="LABEL", help="the baseline row for gains (default: student)")
    add("--teacher", metavar="LABEL", help="the first row (default: teacher)")
    add("--output", type=Path, metavar="FILE", help="write the table to this file instead of printing it")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.reports.evaluation_report import evaluation_report, remarks, render
    from grkd.reports.evaluations import read_evaluations
    from grkd.reports.queries import is_ranker_run, ranker_table

    if any(map(is_ranker_run, options.runs)):
        text = ranker_table(options.runs, options.format)
        _give(text, options.output)
        return 0
    found = evaluation_report(
        read_evaluations(options.runs), paper=options.paper, student=options.student, teacher=options.teacher
    )
    text = render(found, options.format)
    _give(text, options.output)
    if options.format == "csv":  # which holds metrics only
        print("\n".join(remarks(found)), file=sys.stderr)
    return 0


def _give(text: str, output: Path | None) -> None:
    """Write the text to a file, or print it."""
    from grkd.files import write_text

    if output is None:
        print(text, end="")
        return
    write_text(output, text)
    print(f"table: {output}")
