"""`grkd run`: a recipe from end to end."""

import argparse
from pathlib import Path

SUMMARY = "run a recipe"
DESCRIPTION = """\
Run a recipe: respond -> score -> train -> evaluate -> report.

Everything goes to the recipe's output folder. The same command again skips finished stages and takes up a killed
training from its last checkpoint. After the recipe, key=value words change single settings (dotted keys, YAML values):

  grkd run recipes/digits.yaml
  grkd run recipes/digits.yaml seeds=[0,1,2] training.learning_rate=1e-3 methods=[kd,grkd]
  accelerate launch -m grkd run recipes/gemma.yaml        # several GPUs
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    command.add_argument("--check", action="store_true", help="read the recipe, print it resolved, and stop")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd import recipe

    read = recipe.read(options.recipe, options.overrides)
    if options.check:
        print(recipe.dump(read), end="")
        return 0
    from grkd.pipeline.run import run as run_recipe

    return run_recipe(read)
