"""Several teachers of a recipe: what stages depend on, their pooled scores, and their models in training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grkd.data.language import Group
from grkd.language.context import LanguageContext
from grkd.language.record_columns import record_columns
from grkd.models.pooled import PooledModel
from grkd.recipe import LanguageRecipe, ServedModel, label_of
from grkd.teacher.pooled_scores import HiddenScores, PooledScores
from grkd.teacher.stored_scores import StoredScores, TopKScores


def is_routed(recipe: LanguageRecipe) -> bool:
    """Whether a teacher is asked about some records alone."""
    return isinstance(recipe.teacher, list) and any(each.only for each in recipe.teacher)


def teachers_identity(recipe: LanguageRecipe) -> dict[str, Any]:
    """What the score stage depends on of several teachers beside what they are: weights, routes, a server's top_k."""
    if not isinstance(recipe.teacher, list):
        return {}
    found = {}
    for each in recipe.teacher:
        top_k = {"top_k": each.top_k} if isinstance(each, ServedModel) else {}
        found[label_of(each)] = {"weight": each.weight, "only": dict(each.only), **top_k}
    return {"teachers": found}


def pooled_scores(context: LanguageContext, work: Path | None = None) -> PooledScores:
    """The teachers' scores of tokens, as the score stage stored them; work: its folder while it is made."""
    assert isinstance(context.recipe.teacher, list)
    stored: list[tuple[StoredScores, float]] = []
    for each in context.recipe.teacher:
        folder = (work or context.run.path / "score") / "teachers" / label_of(each)
        scores = TopKScores(folder / "top_k") if isinstance(each, ServedModel) else HiddenScores(folder)
        stored.append((scores, each.weight))
    return PooledScores(stored)


def live_teachers(context: LanguageContext) -> dict[str, Any]:
    """The models of those that are not behind a server, by label."""
    return {label: own.models.teacher() for label, own in context.teachers.items() if own.models.served is None}


def pooled_model(context: LanguageContext, models: Mapping[str, Any]) -> PooledModel:
    """The teacher of tokens: all of them, each for the records that it is asked about. All share one vocabulary."""
    assert isinstance(context.recipe.teacher, list)
    return PooledModel(
        list(models.values()),
        [each.weight for each in context.recipe.teacher],
        vocabulary=context.models.numbers["vocabulary"],
        only=[each.only for each in context.recipe.teacher],
    )


def with_routes(context: LanguageContext, groups: Sequence[Group]) -> list[Group]:
    """The groups with the columns of their records, by which teachers are asked or not."""
    found = record_columns(context.recipe)
    return [replace(group, columns={**(group.columns or {}), **found[group.id].columns}) for group in groups]
