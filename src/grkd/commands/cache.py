"""`grkd cache`: the teacher's order of candidates at every token, stored once; training then needs no teacher."""

import argparse
from pathlib import Path

SUMMARY = "build a cache of a teacher's rankings, to train without the teacher"
DESCRIPTION = """\
Build, describe or verify a cache of ranks: the teacher's top candidates, in order, for every response token.

  grkd cache build recipe.yaml runs/cache                     # 16 candidates and 8-bit log-probabilities per token
  grkd cache build recipe.yaml runs/cache --order-only        # 38 bytes per token with a vocabulary of 262,144
  grkd cache build recipe.yaml runs/cache --choose sample     # a sample: unbiased soft targets
  grkd cache info runs/cache
  grkd cache verify runs/cache                                # exit status 1 if a file is damaged

A build runs the recipe's prepare and respond stages first. After an interruption, the same command resumes it.
Train from the cache by `teacher: {cache: runs/cache}` in a recipe, or by GRKDTrainer(teacher_cache="runs/cache").
"""


_HOTTEST = 1e6  # there all candidates are equally likely, to float32


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    kinds = command.add_subparsers(dest="what", required=True, metavar="build | info | verify")
    build = kinds.add_parser("build", help="fill a cache from a recipe's teacher")
    build.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    build.add_argument("folder", type=Path, metavar="FOLDER")
    build.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    build.add_argument(
        "--entries", type=int, default=16, metavar="G", help="candidates per token (default: 16); for samples, the mean"
    )
    build.add_argument(
        "--choose", choices=("top", "sample"), default="top", help="top candidates (default), or an unbiased sample"
    )
    build.add_argument("--order-only", action="store_true", help="store no log-probabilities; only pairs can be learnt")
    build.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="temperature of soft targets (default: from the recipe's methods)",
    )
    for name, text in (("info", "print what a cache holds"), ("verify", "check for damaged files")):
        kinds.add_parser(name, help=text).add_argument("folder", type=Path, metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    if options.what == "build":
        return _build(options)
    from grkd.console import Output
    from grkd.teacher.rank_cache import RankCache

    out = Output(highlight=False)
    cache = RankCache(options.folder, writing=options.what == "info")
    if options.what == "info":
        for name, value in cache.described().items():
            out.print(f"{name:24} {value}", soft_wrap=True)
        return 0
    problems = list(cache.problems())
    for problem in problems:
        out.print(problem, soft_wrap=True)
    out.print(
        f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        if problems
        else f"{len(cache.records):,} responses undamaged"
    )
    return 1 if problems else 0


def _build(options: argparse.Namespace) -> int:
    from grkd import recipe
    from grkd.errors import UserError

    read = recipe.read(options.recipe, options.overrides)
    if not isinstance(read, recipe.LanguageRecipe):
        raise UserError(f"{options.recipe}: a cache of ranks is made from a recipe of task: language_model")
    if options.temperature is not None and not 0 < options.temperature <= _HOTTEST:
        raise UserError(f"--temperature must be above 0 and at most {_HOTTEST:g}, got {options.temperature}")
    if options.entries < 2:
        raise UserError(f"--entries must be 2 or more, got {options.entries}")
    from grkd.files import check_output
    from grkd.language.cache_of_ranks import build_cache
    from grkd.pipeline.check import check_first

    check_output(options.folder, "FOLDER")
    check_first(read)

    build_cache(
        read,
        options.folder,
        entries=options.entries,
        choose=options.choose,
        log_probs=not options.order_only,
        temperature=options.temperature,
    )
    return 0
