"""`grkd run`: a recipe from end to end."""

import argparse
from pathlib import Path

from grkd.errors import UserError

SUMMARY = "run a recipe"
DESCRIPTION = """\
Run a recipe: respond -> score -> train -> evaluate -> report.

All results are written to the recipe's output folder. Repeated, the command skips finished stages and resumes an
interrupted training from its last checkpoint. Arguments key=value after the recipe override single settings (dotted
keys, YAML values):

  grkd run recipes/digits.yaml
  grkd run recipes/digits.yaml seeds=[0,1,2] training.learning_rate=1e-3 methods=[kd,grkd]
  grkd run recipes/digits.yaml --check          # find mistakes before anything is loaded or written
  grkd run recipes/digits.yaml --check --deep   # load the models and try one step of every method
  accelerate launch -m grkd run recipes/gemma2-9b-2b.yaml # several GPUs
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    add = command.add_argument
    add(
        "--check",
        action="store_true",
        help="only check the recipe and its data, without loading weights; print the recipe with every key",
    )
    add("--deep", action="store_true", help="with --check: also load models and try one step of every method")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd import recipe

    if options.deep and not options.check:
        raise UserError("--deep needs --check: grkd run RECIPE --check --deep")
    read = recipe.read(options.recipe, options.overrides)
    from grkd.pipeline import run as pipeline
    from grkd.pipeline.check import check_deeply, check_recipe

    if not options.check:
        return pipeline.run(read)
    check_recipe(read)
    if options.deep:
        return check_deeply(read)
    print(recipe.dump(read, empty=True), end="")
    return 0
