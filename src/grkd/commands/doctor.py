"""`grkd doctor`: what is likely to spoil a run, before it."""

import argparse
from pathlib import Path

SUMMARY = "look for what would spoil a run, without training"
DESCRIPTION = """\
Look at a recipe's tokenizers, data and models, and say what is likely to spoil the run, each finding with what to do.
Models are loaded and 32 prompts or lists are looked at; nothing is trained and nothing is written.

  grkd doctor recipe.yaml
  grkd doctor recipe.yaml training.learning_rate=1e-3     # settings as for `grkd run`
  grkd doctor recipe.yaml --ask                           # ask a served teacher and judges: at most 4 and 3 requests
  grkd doctor recipe.yaml --json | jq '.[].check'         # for scripts

error: the run would fail or its result mean nothing. warning: it is likely to be worse. note: good to know.
Exit status: 1 if anything is an error, else 0.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    command.add_argument("--ask", action="store_true", help="ask a served teacher and judges, which may cost money")
    command.add_argument("--json", action="store_true", help="findings as JSON")


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
        Output().print(table(found) if found else "nothing found")
    return exit_status(found)
