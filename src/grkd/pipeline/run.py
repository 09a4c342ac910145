"""A recipe run from end to end: prepare -> respond -> score -> train -> evaluate -> report."""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate import PartialState
from transformers.utils import logging

from grkd import objectives
from grkd.classify import stages as classifier
from grkd.console import console
from grkd.errors import UserError
from grkd.language import evaluate as language_evaluation
from grkd.language import shared as language
from grkd.language import train as language_training
from grkd.recipe import ClassifierRecipe, LanguageRecipe, Lockstep, Method, Recipe
from grkd.run.device import device
from grkd.run.folder import RunFolder
from grkd.run.results import collect, describe, publish
from grkd.run.training import check
from grkd.training.lockstep.student import check_for_classes

__all__ = ["run"]


def run(recipe: Recipe) -> int:
    """Run every stage that is not whole yet. Returns 0, or 1 where a method failed (the others went on).

    Raises UserError for the user's mistakes, before anything is written where they can be seen before.
    """
    _refuse_what_compare_reads(recipe)
    device(recipe.device)
    check(recipe.training)
    logging.disable_progress_bar()  # ours say more
    folder = RunFolder(Path(recipe.output))
    existed = folder.path.exists()
    try:
        with folder.locked():
            status = _stages(recipe, folder)
            if folder.ranks.is_main_process:
                collect(recipe, folder.path, status)
                publish(folder.path)
    except UserError:
        if not existed:
            _remove_if_empty(folder.path)
        raise
    return 0 if all(outcome == "done" for outcome in status.values()) else 1


def _refuse_what_compare_reads(recipe: Recipe) -> None:
    """Raises UserError for settings that only `grkd compare` follows: without them it is another experiment."""
    given = ["search"] if recipe.search is not None else []
    if isinstance(recipe, ClassifierRecipe):
        given += ["lockstep"] if recipe.lockstep != Lockstep() else []
        given += ["data.teacher_labels"] if recipe.data.teacher_labels is not None else []
        given += ["data.copies"] if recipe.data.copies else []
    if given:
        raise UserError(f"{given[0]} is for grkd compare; give that command, or take the key out")


def _stages(recipe: Recipe, folder: RunFolder) -> dict[str, str]:
    if isinstance(recipe, LanguageRecipe):
        models = language.shared_stages(recipe, folder)

        def train(method: Method, seed: int, name: str) -> None:
            language_training.train_student(recipe, folder, models, method, seed)
            language_evaluation.evaluate_student(recipe, folder, models, name, name)
    else:
        assert isinstance(recipe, ClassifierRecipe)
        for method in recipe.methods:
            check_for_classes(method.label, objectives.load(method.name, **method.options))
        classifier.check_teacher(recipe)
        shared = classifier.ClassifierRun(recipe, folder)
        classifier.prepare(shared)
        check(recipe.training, recipe.methods, shared.data.classes)
        describe(recipe, folder)
        classifier.teach(shared)
        classifier.score(shared)
        classifier.evaluate(shared, "teacher", None, seed=recipe.seeds[0])

        def train(method: Method, seed: int, name: str) -> None:
            classifier.train_student(shared, method, seed)
            classifier.evaluate(shared, name, name, seed=seed)

    return dict(_each(recipe, train))


def _each(recipe: Recipe, train: Callable[[Method, int, str], None]) -> Iterator[tuple[str, str]]:
    """Every method and seed; one that fails is noted, the rest goes on. A user's mistake ends the run."""
    for method in recipe.methods:
        for seed in recipe.seeds:
            name = f"{method.label}-seed{seed}"
            try:
                train(method, seed, name)
            except (UserError, OSError):
                raise
            except Exception as error:
                if PartialState().num_processes > 1:  # the other ranks are still in this training and wait for us
                    raise
                traceback.print_exc()
                console.print(f"[red]{name} failed; going on with the others[/red]")
                yield name, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                yield name, "done"


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # something of value is in it
