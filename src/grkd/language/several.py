"""Several teachers of a recipe: what stages depend on, which records each is asked about, their pooled scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.record_columns import GroupData
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


def check_routes(
    recipe: LanguageRecipe, groups: Sequence[Sequence[Mapping[str, Any]]], data_columns: Mapping[str, GroupData]
) -> None:
    """Raises UserError for a record that every teacher leaves to another. groups: records of the respond stage."""
    routes = [each.only for each in recipe.teacher] if isinstance(recipe.teacher, list) else [{}]
    for group in groups:
        name = group[0]["group"]
        columns = data_columns[name].columns if name in data_columns else {}
        if not any(all(columns.get(key) == value for key, value in only.items()) for only in routes):
            asked = {key: columns.get(key) for only in routes for key in only}
            raise UserError(
                f"teacher: record {name} has {asked}, which is no teacher's `only`; give it a teacher"[:380]
            )


def pooled_scores(context: LanguageContext, work: Path | None = None) -> PooledScores:
    """The teachers' scores of tokens, as the score stage stored them; work: its folder while it is made."""
    assert isinstance(context.recipe.teacher, list)
    stored: list[tuple[StoredScores, float]] = []
    for each in context.recipe.teacher:
        folder = (work or context.run.path / "score") / "teachers" / label_of(each)
        scores = TopKScores(folder / "top_k") if isinstance(each, ServedModel) else HiddenScores(folder)
        stored.append((scores, each.weight))
    return PooledScores(stored)
