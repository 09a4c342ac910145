"""`grkd verify`: whether a run's files are as their stages left them."""

import argparse
from pathlib import Path

SUMMARY = "look for damaged files in a run"
DESCRIPTION = """\
Compare every file of a run's finished stages with the size and digest that were noted when the stage was made, and say
which stages are damaged. Exit status: 0 undamaged, 1 damaged, 2 no run's folder.

  grkd verify runs/demo
  grkd verify runs/demo --repair     # move damaged stages aside (STAGE.damaged); the run's command makes them again

Stages that were made from a damaged one are kept: if the damage is older than they are, delete them too.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    command.add_argument("--repair", action="store_true", help="move damaged stages aside; the next run rebuilds them")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.run.verify import verify

    return verify(options.run, repair=options.repair)
