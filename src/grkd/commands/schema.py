"""`grkd schema`: what a recipe may hold, for editors and as a page."""

import argparse
import json
from pathlib import Path

SUMMARY = "print the JSON schema of recipes"
DESCRIPTION = """\
Print the JSON schema of recipes, which editors use to complete and check keys, or the reference page.

  grkd schema --output recipe.schema.json
  # then, in the first line of a recipe, for editors with a YAML language server:
  # yaml-language-server: $schema=recipe.schema.json
  grkd schema --markdown > docs/guide/recipe-reference.md
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument(
        "--markdown", action="store_true", help="print the reference page: every key, default and meaning"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of printing")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd import recipe
    from grkd.files import write_text

    text = recipe.reference() if options.markdown else json.dumps(recipe.schema(), indent=1) + "\n"
    if options.output is None:
        print(text, end="")
    else:
        write_text(options.output, text)
        print(f"written: {options.output}")
    return 0
