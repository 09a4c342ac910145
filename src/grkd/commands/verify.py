"""`grkd verify`: whether a run's files are as their stages left them."""

import argparse
from pathlib import Path

SUMMARY = "check a run's files for damage"
DESCRIPTION = """\
Compare every file of a run's finished stages with its recorded size and digest, and list damaged stages.
Exit status: 0 undamaged, 1 damaged, 2 not a run's folder.

  grkd verify runs/demo
  grkd verify runs/demo --repair     # move damaged stages aside (STAGE.damaged); `grkd run` rebuilds them

Stages computed from a damaged stage are kept. If the damage is older than they are, delete them too.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    command.add_argument("--repair", action="store_true", help="move damaged stages aside; the next run rebuilds them")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.run.verify import verify

    return verify(options.run, repair=options.repair)
