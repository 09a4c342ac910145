"""`grkd compare`: every method on one fair footing, tuned with the same number of trials, and one table."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from grkd import objectives
from grkd.errors import UserError
from grkd.pipeline.check import check_first, check_search
from grkd.ranks import are_several
from grkd.recipe import LanguageRecipe, Method, RankRecipe, Recipe
from grkd.run.folder import RunFolder

_MOST_SEEDS = 1000
Until = Literal["teach", "search", "finals"]


def compare(
    recipe: Recipe,
    *,
    methods: str | None = None,
    seeds: int | None = None,
    processes: int = 1,
    minutes: float | None = None,
    until: Until = "finals",
) -> int:
    """Compare the recipe's methods, or those named, on the same prompts, groups, teacher scores and optimiser steps.

    methods, seeds: see `chosen`. processes: students (of classifiers: groups of students) trained at a time.
    Of classifiers and rankers, minutes: begin nothing new after so many; until: the last part to do.
    Returns 0, or 1 if a method failed (it is shown as failed, the others went on). The same command goes on after a
    kill. Raises UserError for a mistake in the recipe or an unknown method.
    """
    recipe = chosen(recipe, methods=methods, seeds=seeds)
    if processes < 1:
        raise UserError(f"--processes must be 1 or more, got {processes}")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"--minutes must be a number above 0, got {minutes}")
    if isinstance(recipe, LanguageRecipe) and (minutes is not None or until != "finals"):
        raise UserError("--minutes and --until are not for language models: to stop their comparison, interrupt it")
    if processes > 1 and are_several():
        raise UserError(
            "--processes: the processes of accelerate launch train each student together; remove --processes, or "
            "start grkd compare without accelerate launch"
        )
    check_first(recipe)
    from transformers.utils import logging  # after the check: it takes seconds

    from grkd.run.results import publish

    logging.disable_progress_bar()
    run = RunFolder(Path(recipe.output))
    with run.locked():
        if isinstance(recipe, LanguageRecipe):
            from grkd.language.compare import compare_language

            status = compare_language(recipe, run, processes=processes)
        elif isinstance(recipe, RankRecipe):
            from grkd.lists.compare import ListComparison

            status = ListComparison(recipe, run).compare(processes=processes, minutes=minutes, until=until)
        else:
            from grkd.classify.compare import ClassifierComparison

            status = ClassifierComparison(recipe, run).compare(processes=processes, minutes=minutes, until=until)
        return publish(recipe, run, status)


def chosen(recipe: Recipe, *, methods: str | None = None, seeds: int | None = None) -> Recipe:
    """The recipe with other methods or seeds.

    methods: labels of the recipe's methods, or names of methods with their defaults, separated by commas. seeds: 0 to
    seeds - 1 in place of the recipe's. Raises UserError for unknown methods, and a search's options that fit none.
    """
    if seeds is not None and not 1 <= seeds <= _MOST_SEEDS:
        raise UserError(f"--seeds must be from 1 to {_MOST_SEEDS}, got {seeds}")
    check_search(recipe)
    if methods is not None:
        recipe = replace(recipe, methods=[_method(recipe, name) for name in _named(methods)])
    return recipe if seeds is None else replace(recipe, seeds=list(range(seeds)))


def _named(methods: str) -> list[str]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--methods: expected different names separated by commas, got {methods!r}")
    return names


def _method(recipe: Recipe, name: str) -> Method:
    """A method of the recipe by its label, else a method with its default options."""
    for method in recipe.methods:
        if method.label == name:
            return method
    objectives.load(name)
    return Method(name=name, label=name)
