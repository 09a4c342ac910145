"""All that the doctor looks at, for every task."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from grkd.console import console
from grkd.doctor.finding import Finding, error
from grkd.doctor.settings import look_at_settings
from grkd.errors import UserError
from grkd.pipeline.check import check_recipe
from grkd.recipe import ClassifierRecipe, LanguageRecipe, Recipe
from grkd.run.folder import RunFolder


def examine(recipe: Recipe, *, ask: bool = False) -> list[Finding]:
    """Every finding, in the order of the checks. Nothing is trained and nothing of the run is written.

    ask: make a few requests to the servers that the recipe names.
    What `grkd run --check` refuses is a finding too, and then the only one: the other checks need a sound recipe.
    """
    quiet, console.quiet = console.quiet, True
    try:
        return list(_findings(recipe, ask))
    finally:
        console.quiet = quiet


def _findings(recipe: Recipe, ask: bool) -> Iterator[Finding]:
    try:
        check_recipe(recipe)
    except UserError as mistake:
        yield error("recipe", str(mistake), "fix it; nothing else was checked")
        return
    yield from look_at_settings(recipe)
    try:
        with tempfile.TemporaryDirectory(prefix="grkd-doctor-") as place:
            yield from _of_task(recipe, RunFolder(Path(place)), ask)
    except UserError as mistake:
        yield error("models and data", str(mistake), "fix it; later checks were skipped")


def _of_task(recipe: Recipe, folder: RunFolder, ask: bool) -> Iterator[Finding]:
    if isinstance(recipe, LanguageRecipe):
        from grkd.doctor.language import look_at_language

        yield from look_at_language(recipe, ask=ask)
    elif isinstance(recipe, ClassifierRecipe):
        from grkd.doctor.classes import look_at_classes

        yield from look_at_classes(recipe, folder)
    else:
        from grkd.doctor.lists import look_at_lists

        yield from look_at_lists(recipe, folder)
