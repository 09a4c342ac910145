"""A recipe run from end to end: prepare -> respond -> score -> train -> evaluate -> report."""

from collections.abc import Callable, Iterator
from pathlib import Path

from grkd.console import console
from grkd.errors import UserError
from grkd.files import full_disk
from grkd.pipeline.check import check_first, check_search
from grkd.ranks import others_wait
from grkd.recipe import ClassifierRecipe, LanguageRecipe, Method, RankRecipe, Recipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import failure

__all__ = ["run", "stages"]


def run(recipe: Recipe) -> int:
    """Run every stage that is not complete yet. Returns 0, or 1 if a method failed (the others went on).

    Raises UserError for the user's mistakes, before anything is written where they can be seen before.
    """
    check_search(recipe)
    check_first(recipe)
    from transformers.utils import logging  # after the check: it takes seconds

    from grkd.run.results import publish

    logging.disable_progress_bar()  # ours say more
    folder = RunFolder(Path(recipe.output))
    existed = folder.path.exists()
    try:
        with folder.locked():
            return publish(recipe, folder, stages(recipe, folder))
    except UserError:
        if not existed:
            _remove_if_empty(folder.path)
        raise


def stages(recipe: Recipe, folder: RunFolder) -> dict[str, str]:
    """Every stage of a recipe that is not complete yet; "done" or "failed: reason" by method and seed."""
    if recipe.search is not None:
        console.print(
            "search: ignored by grkd run, which trains every method with the recipe's settings; use grkd compare"
        )
    if isinstance(recipe, ClassifierRecipe):
        from grkd.classify.compare import ClassifierComparison

        return ClassifierComparison(recipe, folder).as_written()
    if isinstance(recipe, RankRecipe):
        from grkd.lists.compare import ListComparison

        return ListComparison(recipe, folder).as_written()
    assert isinstance(recipe, LanguageRecipe)
    from grkd.language.stages import before_training, distil

    context = before_training(recipe, folder, all_learn=True)

    def train(method: Method, seed: int) -> None:
        distil(context, method, seed)

    return dict(_each(recipe, train))


def _each(recipe: Recipe, train: Callable[[Method, int], None]) -> Iterator[tuple[str, str]]:
    """Every method and seed; one that fails is noted, the rest goes on. A user's mistake ends the run."""
    for method in recipe.methods:
        for seed in recipe.seeds:
            name = f"{method.label}-seed{seed}"
            try:
                train(method, seed)
            except (UserError, OSError):
                raise
            except Exception as error:  # a method of the user's raises anything
                if others_wait(error) or full_disk(error):
                    raise
                outcome = failure(error)
                console.print(f"[red]{name} failed; continuing with the others[/red]")
                yield name, outcome
            else:
                yield name, "done"


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # something of value is in it
