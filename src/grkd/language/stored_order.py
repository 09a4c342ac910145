"""Stored groups in the order of a method's own rankers, from the scores that the score stage kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from grkd.console import console
from grkd.data.language import Group
from grkd.language.context import LanguageContext
from grkd.language.fresh import method_panel
from grkd.language.score_report import read_scores
from grkd.language.scorer import panel_of
from grkd.rankers import Panel, order
from grkd.recipe import LanguageRecipe, Method


def own_order(recipe: LanguageRecipe, method: Method) -> bool:
    """Whether a method that samples groups in training orders the stored ones beside them by rankers of its own."""
    if recipe.responses.stored_share == 0 or (method.rankers is None and method.combine is None):
        return False
    return method_panel(recipe, method).identity() != panel_of(recipe.score, recipe.teacher).identity()


def in_own_order(context: LanguageContext, method: Method, groups: Sequence[Group]) -> list[Group]:
    """The groups, those of a method with its own rankers in the order of these.

    If score.rankers lacks one of them, the stored groups keep the recipe's order, and the console says so.
    """
    recipe = context.recipe
    if not own_order(recipe, method):
        return list(groups)
    own, asked = method_panel(recipe, method), panel_of(recipe.score, recipe.teacher)
    known, wanted = ([_itself(member) for member in panel.identity()["rankers"]] for panel in (asked, own))
    if missing := [label for label, member in zip(own.labels, wanted, strict=True) if member not in known]:
        text = f"{method.label}: stored groups keep the order of score.rankers, which lacks {', '.join(missing)}"
        if context.run.ranks.is_main_process:
            console.print(f"[yellow]{text}[/yellow]")
        return list(groups)
    scored, places = read_scores(context.run.path / "score"), [known.index(member) for member in wanted]
    found = []
    for group in groups:
        scores = np.array([scored[item.id]["ranker_scores"] for item in group.items], dtype=float)  # None is NaN
        found.append(_ordered(group, own, scores.T[places]))
    return found


def _ordered(group: Group, panel: Panel, scores: np.ndarray) -> Group:
    """scores: [rankers, n]."""
    found = order([values[None] for values in scores], weights=panel.weights, combine=panel.combine)
    share_and_weight = None
    if found.votes is not None:
        share, weight = (tuple(map(tuple, each[0].tolist())) for each in (found.votes.share, found.votes.weight))
        share_and_weight = (share, weight)
    return replace(group, teacher_scores=tuple(found.scores[0].tolist()), votes=share_and_weight)


def _itself(member: dict[str, Any]) -> dict[str, Any]:
    """What a ranker's scores depend on."""
    return {name: value for name, value in member.items() if name not in ("label", "weight")}
