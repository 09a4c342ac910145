"""`grkd init`: a first recipe for the user's data."""

import argparse
from pathlib import Path

SUMMARY = "write a recipe for your data"
DESCRIPTION = """\
Inspect data and models, and write a commented recipe that passes `grkd run --check`. No file is overwritten.

  grkd init chats.jsonl --teacher ./large --student ./small           # folders or hub names
  grkd init chats.jsonl --teacher http://127.0.0.1:8000/v1 --served-model large --student ./small
  grkd init reviews.csv                                               # texts and labels, with small networks
  grkd init photos/ --output photos.yaml                              # a folder per class, or a CSV of image files
  grkd init lists.jsonl                                               # queries, candidates and their order

DATA is a file (JSONL, CSV, TSV, JSON, Parquet), a folder, or the name of a data set. Records can be conversations,
prompts, preference pairs, groups of responses, texts with labels, or lists of candidates (see docs/guide/data.md and
docs/guide/lists.md).
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("data", metavar="DATA", help="a file, a folder, or a data set by name")
    add("--heldout", metavar="FILE", help="held-out records (default: part of DATA, or test.* next to train.*)")
    add("--teacher", metavar="MODEL", help="a folder, a GGUF file, a hub name, or an OpenAI-compatible server's URL")
    add(
        "--student",
        metavar="MODEL",
        help="a folder, file or hub name (default: half of the teacher's layers, or small)",
    )
    add("--served-model", metavar="NAME", help="the model's name on the teacher's server")
    add("--text-only", action="store_true", help="the server gives no log-probabilities, like most chat APIs")
    add("--output", type=Path, default=Path("recipe.yaml"), metavar="FILE", help="default: recipe.yaml")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.first_recipe.write import write

    found = write(
        options.data,
        options.output,
        heldout=options.heldout,
        teacher=options.teacher,
        student=options.student,
        served_model=options.served_model,
        text_only=options.text_only,
    )
    print(f"found: {found.about}\nwritten: {options.output}\nnext: grkd doctor {options.output}")
    return 0
