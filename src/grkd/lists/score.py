"""The second stage: the teachers' order of every list, and what each method may see of it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from grkd.errors import UserError
from grkd.files import whole_file
from grkd.lists.context import RankContext
from grkd.lists.served import scored_by_server
from grkd.lists.teachers import scored_by
from grkd.objectives import LeastTeacher, Objective
from grkd.rankers.combine import order
from grkd.recipe import RankRecipe
from grkd.run.folder import identity

_RANKS: tuple[LeastTeacher, ...] = ("tiers", "order", "scores")  # from the least that a teacher may give to the most


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What students learn from. scores: of the candidates, 0 if there is none. shares, weights: votes on pairs."""

    scores: Float[Tensor, "queries candidates"]
    exists: Bool[Tensor, "queries candidates"]
    shares: Float[Tensor, "queries candidates candidates"] | None = None
    weights: Float[Tensor, "queries candidates candidates"] | None = None


def score(context: RankContext) -> Path:
    """Leave score/scores.safetensors: the teachers' combined scores, NaN for no opinion, and votes if asked for."""
    inputs = {"prepare": context.run.key("prepare"), "teacher": _asked(context.recipe), "device": context.device.type}

    def make(work: Path) -> None:
        found = combined(context)
        with whole_file(work / "scores.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in found.items()}, aside)

    return context.run.stage("score", inputs, make, main_only=True)


def combined(context: RankContext) -> dict[str, Tensor]:
    """The scores of all teachers as one order."""
    teacher, lists = context.recipe.teacher, context.lists
    several = [scored_by(context, model) for model in teacher.models]
    if teacher.served is not None:
        several.append(scored_by_server(context))
    if uses_data(context.recipe):
        several.append(lists.word.masked_fill(~lists.exists, torch.nan))
    found = order([one.numpy() for one in several], combine=teacher.combine or "weights")
    tensors = {"scores": torch.from_numpy(found.scores)}
    if found.votes is not None:
        tensors |= {"shares": torch.from_numpy(found.votes.share), "weights": torch.from_numpy(found.votes.weight)}
    return tensors


def teacher_scores(context: RankContext) -> Float[Tensor, "queries candidates"]:
    """The combined scores as they are, NaN for no opinion."""
    found: Tensor = load_file(context.run.path / "score" / "scores.safetensors")["scores"]
    return found


def signal(context: RankContext, objective: Objective) -> Signal:
    """What a method sees: scores, or places if the teacher says no more than an order; votes if there are any."""
    found: dict[str, Tensor] = load_file(context.run.path / "score" / "scores.safetensors")
    scores, exists = found["scores"], found["scores"].isfinite()
    if given(context.recipe, context.lists.kind) != "scores":
        scores = -places(scores, top=context.recipe.teacher.top)
        if objective.least_teacher == "scores":
            scores = -torch.log1p(-scores)
    return Signal(
        scores=torch.where(exists, scores, 0.0).float(),
        exists=exists,
        shares=found["shares"].float() if "shares" in found else None,
        weights=found["weights"].float() if "weights" in found else None,
    )


def places(scores: Float[Tensor, "queries candidates"], *, top: int | None) -> Float[Tensor, "queries candidates"]:
    """Tiers from 0 for the best; equal scores share one. Those at `top` or below it share the next; NaN stays NaN.

    top: number of places, counted by candidates: tiers that begin among the first `top` stay.
    """
    above = (scores.unsqueeze(-2) > scores.unsqueeze(-1)).sum(-1)
    found = torch.full_like(scores, torch.nan)
    for row, exists in enumerate(scores.isfinite()):
        began = above[row, exists]
        if top is not None:
            began = began.clamp_max(top)
        found[row, exists] = torch.unique(began, return_inverse=True)[1].to(scores.dtype)
    return found


def given(recipe: RankRecipe, kind: str | None) -> LeastTeacher:
    """The most that methods may read of the teacher: scores, a full order, or tiers."""
    teacher = recipe.teacher
    if teacher.top is not None:
        return "tiers"
    most: LeastTeacher = "order" if teacher.says == "order" or teacher.asks == "permutation" else "scores"
    if not teacher.is_named and kind in ("order", "tiers"):
        return "tiers" if kind == "tiers" else "order"
    return most


def uses_data(recipe: RankRecipe) -> bool:
    """Whether the lists' own word is one of the teachers."""
    return not recipe.teacher.is_named if recipe.teacher.from_data is None else recipe.teacher.from_data


def check_signal(label: str, objective: Objective, most: LeastTeacher, *, places_as_scores: bool) -> None:
    """Reject a method that needs more than the teacher gives, by name and with what to do."""
    least = objective.least_teacher
    if _RANKS.index(least) <= _RANKS.index(most):
        return
    if least == "scores":
        if places_as_scores:
            return
        has = "tiers" if most == "tiers" else "an order"
        instead = "grkd with preset: lists, plackett_luce, ranknet or lambdaloss; or set teacher.places_as_scores: true"
        raise UserError(f"{label}: needs the teacher's scores, and the teacher gives {has}; use {instead}")
    raise UserError(f"{label}: needs a full order, and the teacher gives tiers; use plackett_luce, which takes ties")


def _asked(recipe: RankRecipe) -> dict[str, object]:
    """What the scores depend on: not what the students may see of them."""
    own = ("models", "from_data", "combine", "scale", "prompt", "max_tokens", "asks", "window", "stride")
    plain = identity(recipe.teacher)
    served = recipe.teacher.served
    return {name: plain.get(name) for name in own} | {"served": None if served is None else served.model}
