"""`grkd compare`: methods tuned under one budget and compared."""

import argparse
from pathlib import Path

SUMMARY = "tune methods and compare them"
DESCRIPTION = """\
Find out which method is best on your data.

1. Search: every method is tuned with the same number of trials (the recipe's `search` section), on a validation part of
   the training data.
2. Final runs: every method is trained with every seed, on the same prompts, response groups, teacher scores and number
   of optimiser steps.
3. Results: one table with 95 % intervals and paired tests.

After an interruption, the same command resumes. If a method fails, the others continue and the table shows the failure.

  grkd compare recipes/smollm2-compare.yaml
  grkd compare recipes/smollm2-compare.yaml --methods kd,seqkd,dpo,grkd --seeds 3 --processes 4
  grkd compare recipes/smollm2-compare.yaml --methods kd,grkd search.trials=3 training.steps=200
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("recipe", type=Path, metavar="RECIPE.yaml")
    add("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    add("--methods", metavar="A,B", help="methods to compare: labels in the recipe, or names of other methods")
    add("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the recipe's)")
    add("--processes", type=int, default=1, metavar="N", help="number of students to train at a time on one device")
    add("--minutes", type=float, metavar="M", help="classifiers, rankers: start no new training after M minutes")
    add("--check", action="store_true", help="only check the recipe and its data, without loading weights; print it")
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
