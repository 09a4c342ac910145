"""`grkd recipes`: the recipes that come with grkd, to be copied and changed."""

import argparse
import shutil
from pathlib import Path

from grkd.errors import UserError

SUMMARY = "list or copy the example recipes"
DESCRIPTION = """\
List the example recipes that come with grkd, or copy them into a folder, to change and run them.

  grkd recipes
  grkd recipes --copy recipes       # then: grkd run recipes/digits.yaml
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("--copy", type=Path, metavar="FOLDER", help="copy all recipes into this new folder")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    source = folder()
    if options.copy is not None:
        if options.copy.exists():
            raise UserError(f"--copy {options.copy}: it exists already; give the name of a new folder")
        shutil.copytree(source, options.copy)
        print(f"copied: {options.copy}")
        return 0
    for path in sorted(source.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{path.relative_to(source)}: {first}")
    return 0


def folder() -> Path:
    """Where the recipes are: in the installed package, or in the repository that it is run from."""
    package = Path(__file__).parents[1]
    return next(one for one in (package / "recipes", package.parents[1] / "recipes") if one.is_dir())
