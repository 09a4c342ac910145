"""`grkd doctor`: what is likely to spoil a run, before it."""

import argparse
from pathlib import Path

SUMMARY = "find problems of a recipe before training"
DESCRIPTION = """\
Check a recipe's tokenizers, data and models for problems. Each finding says what to do.
Models are loaded and tried on 32 prompts or lists. Nothing is trained and nothing is written.

  grkd doctor recipe.yaml
  grkd doctor recipe.yaml training.learning_rate=1e-3     # settings as for `grkd run`
  grkd doctor recipe.yaml --ask                           # also ask served teachers (4 requests) and judges (3)
  grkd doctor recipe.yaml --json | jq '.[].check'         # for scripts

error: the run would fail, or its result would be meaningless. warning: the result is likely to be worse. note: good to
know. Exit status: 1 if there is an error, else 0.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    command.add_argument(
        "--ask", action="store_true", help="send requests to a served teacher and judges, which may cost money"
    )
    command.add_argument("--json", action="store_true", help="print findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    import json

    from grkd import recipe

    read = recipe.read(options.recipe, options.overrides)
    from grkd.console import Output
    from grkd.doctor.examine import examine
    from grkd.doctor.finding import as_json, exit_status, table

    found = examine(read, ask=options.ask)
    if options.json:
        print(json.dumps(as_json(found), indent=1, ensure_ascii=False))
    else:
        Output().print(table(found) if found else "no problems found")
    return exit_status(found)
