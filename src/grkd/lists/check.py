"""What a list's recipe gets wrong, as far as data and methods tell."""

from pathlib import Path
from typing import cast

import torch

from grkd import hub, objectives
from grkd.data.retrieval_folder import read_retrieval_folder
from grkd.endpoint.client import base_url, key_of
from grkd.errors import UserError
from grkd.lists.context import RankContext
from grkd.lists.libraries import library
from grkd.lists.metrics import ON_VALIDATION
from grkd.lists.prepare import read
from grkd.lists.score import check_signal, given, uses_data
from grkd.objectives import Batch, Objective
from grkd.recipe import RankRecipe


def check_rank(context: RankContext) -> None:
    """Raises UserError for the first thing that would end the run later; reads the data, writes nothing.

    A folder's candidates are not mined: the teacher and BM25 are only looked for.
    """
    recipe = context.recipe
    for name in ("sentence_transformers", "ir_measures", *(["bm25s"] if _mines(recipe) else [])):
        library(name)
    named = {"student.model": recipe.student.model, "data.dense_model": recipe.data.dense_model}
    for key, model in [*named.items(), *(("teacher.models", model) for model in recipe.teacher.models)]:
        if model is not None:
            hub.check_path(model, f"{key}: ")
    if recipe.search is not None and recipe.search.metric not in (None, *ON_VALIDATION):
        known = ", ".join(ON_VALIDATION)
        raise UserError(f"search.metric: unknown metric {recipe.search.metric!r}; available: {known}")
    for method in recipe.methods:
        check_method(method.label, objectives.load(method.name, **method.options))
    if recipe.teacher.served is not None:
        key_of(base_url(recipe.teacher.served.url, "teacher.served"), recipe.teacher.served.key_env, "teacher.served")
    kind = _kind(context)
    if uses_data(recipe) and kind is None:
        raise UserError(
            "teacher: some lists have no scores, order, tiers or grades; add them, or name models in teacher.models"
        )
    for method in recipe.methods:
        check_signal(
            method.label,
            objectives.load(method.name, **method.options),
            given(recipe, kind),
            places_as_scores=recipe.teacher.places_as_scores,
        )
    from grkd.run.training import check  # imports transformers, which takes seconds

    check(recipe.training)


def check_method(label: str, objective: Objective) -> None:
    """Reject a method that ranks whole responses, needs labels, or compares the same candidate of several rows."""
    if objective.levels != ("row",):
        raise UserError(f"{label}: a method on whole responses cannot train on lists; choose grkd with preset: lists")
    if objective.on_policy:
        raise UserError(f"{label}: a ranker writes no responses; set on_policy_fraction: 0")
    if objective.needs_features:
        raise UserError(f"{label}: reads features of classifiers, which lists do not have")
    if objective.couples_rows:
        text = "compares the same candidate of several rows, and lists have none in common"
        instead = "intra_class_weight: 0" if hasattr(objective, "intra_class_weight") else "preset: lists"
        raise UserError(f"{label}: {text}; set {instead}")
    if not objective.needs_teacher:
        raise UserError(f"{label}: does not learn from a teacher, and lists have nothing else")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, objective.least_candidates, generator=generator) for _ in range(2))
    try:
        objective.terms(Batch(student=student, teacher=teacher, seeds=generator))
    except ValueError as error:
        hint = "set label_first: false" if getattr(objective, "label_first", False) else "set label_weight: 0"
        raise UserError(f"{label}: {error}; lists have no labels, {hint}") from None


def _mines(recipe: RankRecipe) -> bool:
    return recipe.data.folder is not None and recipe.data.pool == "mined"


def _kind(context: RankContext) -> str | None:
    """What the data say of the candidates, by reading them; mined candidates have nothing."""
    data = context.recipe.data
    if data.folder is not None and _mines(context.recipe):
        read_retrieval_folder(Path(data.folder), split=data.split)
        return None
    return cast(str | None, read(context)[0]["kind"])
