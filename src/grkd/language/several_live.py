"""Several teachers of a recipe in training: their models in this process, as one for tokens, each alone for rankers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grkd.data.language import Group
from grkd.language.context import LanguageContext
from grkd.language.record_columns import record_columns
from grkd.models.pooled import PooledModel


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
    return [
        replace(group, columns={**(group.columns or {}), **(found[group.id].columns if group.id in found else {})})
        for group in groups
    ]
