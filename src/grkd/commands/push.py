"""`grkd push`: a finished student to the hub, with a card of its measures and recipe."""

import argparse
from pathlib import Path

SUMMARY = "upload a student to the hub"
DESCRIPTION = """\
Upload a finished student's folder to the Hugging Face hub, as a private repository unless --public is given. The model
card contains the run's metrics and recipe. No other command uploads anything. Log in with `hf auth login`.

  grkd push runs/mine/train/grkd-seed0/student my-name/my-student
  grkd push runs/mine/train/grkd-seed0/student my-name/my-student --card    # print the card, upload nothing
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("student", type=Path, metavar="STUDENT", help="a model's folder")
    add("name", metavar="OWNER/NAME", help="the repository, created if it does not exist")
    add("--public", action="store_true", help="make a new repository public (an existing one is not changed)")
    add("--card", action="store_true", help="print the model card and upload nothing")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.run.push import finished_card, push

    if options.card:
        print(finished_card(options.student))
        return 0
    print(f"uploaded: {push(options.student, options.name, private=not options.public)}")
    return 0
