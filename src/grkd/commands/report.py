"""`grkd report`: the tables and the page of runs, again."""

import argparse
from pathlib import Path

from grkd.errors import UserError

SUMMARY = "print a run's tables and rebuild its report page"
DESCRIPTION = """\
Print the tables of finished or unfinished runs and rebuild their report: one page for all of them.

  grkd report runs/digits
  grkd report runs/a runs/b --output both.html
  grkd report runs/a --evaluations student=runs/eval-2b grkd=runs/eval-grkd --paper gemma2   # with the benchmarks
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    add("--output", type=Path, help="file of the page (default: RUN/report.html of the first run)")
    add("--evaluations", nargs="+", metavar="[LABEL=]DIR", help="add a table of these output folders of `grkd eval`")
    add("--paper", choices=("gemma2", "llama3"), help="also show the paper's results for this pair of models")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.console import Output
    from grkd.reports import print_tables, read_run, write_page
    from grkd.reports.evaluation_report import evaluation_report, print_evaluations
    from grkd.reports.evaluations import read_evaluations

    if options.paper and not options.evaluations:
        raise UserError("--paper needs --evaluations [LABEL=]DIR ...")
    runs = [read_run(folder) for folder in options.runs]
    found = (
        evaluation_report(read_evaluations(options.evaluations), paper=options.paper) if options.evaluations else None
    )
    page = options.output or options.runs[0] / "report.html"
    write_page(runs, page, evaluations=found)
    print_tables(runs, Output())
    if found is not None:
        print_evaluations(found, Output(highlight=False))
    print(f"report: {page}")
    return 0
