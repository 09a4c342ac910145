"""`grkd table`: the paper's table for any models."""

import argparse
import sys
from pathlib import Path

SUMMARY = "the paper's table"
DESCRIPTION = """\
Print the paper's Table 1 for any models: teacher, student and methods against AlpacaEval 2, Arena-Hard, MT-Bench and
GSM8K, gains over the student in brackets. RUN is an output folder of `grkd eval`; LABEL=RUN names its row.

Below it, for models that answered the same items (rank fidelity and exact match too): the paired difference with its
95 % interval, McNemar's test or the paired bootstrap, Holm's correction, and which model is ahead at 5 %.

  grkd table teacher=runs/eval-9b student=runs/eval-2b grkd=runs/eval-grkd --paper gemma2
  grkd table runs/eval-* --student gemma-2-2b-it --format latex --output table1.tex
  grkd table kd=runs/eval-kd grkd=runs/eval-grkd --format json      # metrics and comparisons
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("runs", nargs="+", metavar="[LABEL=]RUN", help="a folder that `grkd eval` wrote")
    add("--format", choices=("markdown", "latex", "csv", "json"), default="markdown")
    add("--paper", choices=("gemma2", "llama3"), help="show the paper's own results of this pair beside ours")
    add("--student", metavar="LABEL", help="the row that gains are counted from (default: student)")
    add("--teacher", metavar="LABEL", help="the row that comes first (default: teacher)")
    add("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.files import write_text
    from grkd.reports.evaluation_report import evaluation_report, remarks, render
    from grkd.reports.evaluations import read_evaluations

    found = evaluation_report(
        read_evaluations(options.runs), paper=options.paper, student=options.student, teacher=options.teacher
    )
    text = render(found, options.format)
    if options.output is not None:
        write_text(options.output, text)
        print(f"table: {options.output}")
    else:
        print(text, end="")
    if options.format == "csv":  # which holds metrics only
        print("\n".join(remarks(found)), file=sys.stderr)
    return 0
