"""`grkd compare`: methods tuned under one budget and compared."""

import argparse
from pathlib import Path

SUMMARY = "tune methods and compare them"
DESCRIPTION = """\
Which method wins on your data: every method is tuned with the same number of trials (the recipe's `search` section) on
a part of the training prompts, then trained with every seed on the same prompts, response groups, teacher scores and
optimiser steps; one table with 95 % intervals and paired tests. The same command goes on after a kill; a method that
fails is shown as failed, the others go on.

  grkd compare recipes/smollm2-compare.yaml
  grkd compare recipes/smollm2-compare.yaml --methods kd,seqkd,dpo,grkd --seeds 3 --processes 4
  grkd compare recipes/smollm2-compare.yaml --methods kd,grkd search.trials=3 training.steps=200
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("recipe", type=Path, metavar="RECIPE.yaml")
    add("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    add("--methods", metavar="A,B", help="labels of the recipe's methods, or other methods' names")
    add("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the recipe's)")
    add("--processes", type=int, default=1, metavar="N", help="students at a time on one device")
    add("--minutes", type=float, metavar="M", help="classifiers, rankers: begin nothing new after M minutes")
    add("--check", action="store_true", help="say what is wrong before weights are loaded, else print the recipe")
    until = ("teach", "search", "finals")
    add("--until", choices=until, default="finals", help="classifiers, rankers: stop after this part")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd import recipe

    read = recipe.read(options.recipe, options.overrides)
    from grkd.pipeline.compare import chosen, compare

    if options.check:
        from grkd.pipeline.check import check_recipe

        check_recipe(read)
        read = chosen(read, methods=options.methods, seeds=options.seeds)
        print(recipe.dump(read), end="")
        return 0
    names = ("methods", "seeds", "processes", "minutes", "until")
    return compare(read, **{name: getattr(options, name) for name in names})
