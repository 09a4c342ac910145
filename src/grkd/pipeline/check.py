"""`grkd run --check`: everything that can be known before time is spent."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from grkd import objectives
from grkd.console import console
from grkd.endpoint.client import base_url, key_of
from grkd.errors import UserError
from grkd.files import check_output
from grkd.recipe import ClassifierRecipe, LanguageRecipe, RankedLabels, RankRecipe, Recipe, ServedModel
from grkd.run.trainer_settings import check_names

_PROMPTS = 8
_EXAMPLES = 256
_LISTS = 64


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError for the first mistake that data, configs, methods and options show. Loads no weights of language
    models, asks no network, writes nothing."""
    check_search(recipe)
    check_first(recipe)
    if isinstance(recipe, ClassifierRecipe):
        from grkd.classify.check import check_classifier
        from grkd.classify.context import ClassifierContext
        from grkd.run.folder import RunFolder

        check_classifier(ClassifierContext(recipe, RunFolder(Path(recipe.output))))

    if isinstance(recipe, RankRecipe):
        from grkd.lists.check import check_rank
        from grkd.lists.context import RankContext
        from grkd.run.folder import RunFolder

        check_rank(RankContext(recipe, RunFolder(Path(recipe.output))))


def check_first(recipe: Recipe) -> None:
    """What a run or comparison checks before its folder is made; the rest of a classifier's comes with its data.

    What needs neither transformers nor accelerate comes first: to import them takes seconds.
    """
    check_output(Path(recipe.output))
    _check_names(recipe)
    if isinstance(recipe, LanguageRecipe):
        from grkd.language.check_files import check_files

        check_files(recipe)
    from grkd.ranks import do_not_shard, first_process, uses_fsdp
    from grkd.run.device import device

    if not isinstance(recipe, LanguageRecipe) and uses_fsdp():
        do_not_shard()
        if first_process():
            console.print("--use_fsdp is for language models: every process holds all of these students (DDP)")

    device(recipe.device)
    if isinstance(recipe, LanguageRecipe):
        from grkd.language.check import check_language

        check_language(recipe)


def check_search(recipe: Recipe) -> None:
    """Raises UserError for options of a search that reach no method, or that a method refuses."""
    if recipe.search is None:
        return
    labels = {method.label: method for method in recipe.methods}
    for label, options in recipe.search.options.items():
        if label not in labels:
            raise UserError(
                f"search.options.{label}: no method of the recipe has this label; labels: {', '.join(labels)}"
            )
        if "preset" in options:
            raise UserError(f"search.options.{label}.preset: give each preset as a method with a label of its own")
        for name, values in options.items():
            if not values:
                raise UserError(f"search.options.{label}.{name}: no values to try; give some, or remove the key")
            for value in values:
                try:
                    objectives.load(labels[label].name, **{**labels[label].options, name: value})
                except UserError as error:
                    raise UserError(f"search.options.{label}: {error}") from None


def _check_names(recipe: Recipe) -> None:
    check_names(recipe.training)
    if isinstance(recipe, LanguageRecipe):
        for teacher in recipe.teacher if isinstance(recipe.teacher, list) else [recipe.teacher]:
            if isinstance(teacher, ServedModel):
                key_of(base_url(teacher.url, "teacher"), teacher.key_env, "teacher")
    if isinstance(recipe, ClassifierRecipe) and recipe.teacher.training is not None:
        try:
            check_names(recipe.teacher.training)
        except UserError as error:
            raise UserError(f"teacher.{error}") from None


def small(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a few records and one optimiser step, in another folder."""
    step: dict[str, Any] = {"steps": 1, "minutes": None, "epochs": 1.0, "log_every": 1, "report_to": "none"}
    recipe = replace(recipe, output=str(folder), seeds=recipe.seeds[:1], training=replace(recipe.training, **step))
    if isinstance(recipe, ClassifierRecipe):
        few = max(_EXAMPLES, 2 * _classes(recipe))  # of each class one to learn and one for a search
        limit = min(recipe.data.limit or few, few)
        teacher = recipe.teacher
        if teacher.training is not None:
            teacher = replace(teacher, training=replace(teacher.training, **step))
        return replace(
            recipe,
            teacher=teacher,
            data=replace(recipe.data, limit=limit, student_limit=None),
            lockstep=replace(recipe.lockstep, teachers=None),
        )
    if isinstance(recipe, RankRecipe):
        limit = min(recipe.data.limit or _LISTS, _LISTS)
        return replace(recipe, search=None, data=replace(recipe.data, limit=limit, candidates=8))
    data = replace(
        recipe.data,
        heldout=None,
        heldout_split=None,
        limit=min(recipe.data.limit or _PROMPTS, _PROMPTS),
        heldout_fraction=0.5,
    )
    responses = replace(recipe.responses, max_new_tokens=min(recipe.responses.max_new_tokens, 16))
    evaluation = replace(recipe.evaluation, questions=None, curve_questions=None, samples=1, sample_tokens=4)
    return replace(recipe, data=data, responses=responses, evaluation=evaluation)


def _classes(recipe: ClassifierRecipe) -> int:
    """Classes of the recipe's own files; 0 for data sets by name, which have no more than 200. Opens no image."""
    data = recipe.data
    if data.image_folder is not None:
        from grkd.data.labelled_images import class_names

        return len(class_names(Path(data.image_folder)))
    if data.train is None:
        return 0
    from grkd.classify.data import load_data

    ranking = recipe.teacher.ranking if isinstance(recipe.teacher, RankedLabels) else None
    table = replace(data, image=None, image_root=None, text=data.image or data.text, limit=None)
    return load_data(table, seed=0, ranking=ranking).classes


def check_deeply(recipe: Recipe) -> int:
    """Load the models and run one step of every method on a few records, in a folder that is deleted afterwards.

    Returns 0, or 1 if a method failed. Raises UserError as the run itself.
    """
    from grkd.pipeline.run import stages
    from grkd.run.folder import RunFolder

    with tempfile.TemporaryDirectory(prefix="grkd-check-") as place:
        folder = RunFolder(Path(place))
        status = stages(small(recipe, folder.path), folder)
    for name, outcome in status.items():
        console.print(f"{name}: {'one step works' if outcome == 'done' else outcome}", markup=False, soft_wrap=True)
    return 0 if all(outcome == "done" for outcome in status.values()) else 1
