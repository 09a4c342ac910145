"""A recipe's plan, whatever its task."""

from dataclasses import replace
from pathlib import Path

from grkd.planning.earlier import can_show
from grkd.planning.plan import Plan
from grkd.recipe import LanguageRecipe, RankRecipe, Recipe, ServedModel


def make_plan(
    recipe: Recipe,
    *,
    measured: bool,
    prices: tuple[float, float] | None = None,
    hourly_usd: float | None = None,
    ask: bool = False,
    earlier: Path | None = None,
) -> Plan:
    """measured: run a miniature for the times. prices: USD per million tokens that an endpoint reads and writes.

    hourly_usd: price of this machine. earlier: a run whose seeds say what the comparison can show; None: the recipe's
    own run if it has three seeds, else an assumption. ask: let the miniature of a language run ask endpoints for its
    few prompts; else a recipe that asks any is not measured, and neither is a ranker's with a served teacher.
    Raises what the run raises.
    """
    if measured and asks_endpoint(recipe) and not (ask and isinstance(recipe, LanguageRecipe)):
        plan = make_plan(recipe, measured=False, prices=prices, hourly_usd=hourly_usd, earlier=earlier)
        words = "times were not measured, because this would send requests to an endpoint, which may cost money"
        more = " (--ask measures)" if isinstance(recipe, LanguageRecipe) else ""
        return replace(plan, notes=[words + more, *plan.notes[1:]])
    own = Path(recipe.output)
    earlier = own if earlier is None and can_show(own) else earlier
    if isinstance(recipe, LanguageRecipe):
        from grkd.planning.language import plan_language

        plan = plan_language(recipe, measured=measured, prices=prices, earlier=earlier)
    else:
        from grkd.planning.steps import plan_steps

        plan = plan_steps(recipe, measured=measured, earlier=earlier)
    if hourly_usd is None or not plan.stages:
        return plan
    return replace(plan, money={**plan.money, "machine": plan.seconds / 3600 * hourly_usd})


def asks_endpoint(recipe: Recipe) -> bool:
    """Whether a run asks a server: a teacher or a ranker."""
    if isinstance(recipe, RankRecipe):
        return recipe.teacher.served is not None
    if not isinstance(recipe, LanguageRecipe):
        return False
    from grkd.language.scorer import panel_of

    several = [recipe.score.rankers, *(method.rankers for method in recipe.methods)]
    named = any(isinstance(one, dict) and "url" in one for entries in several for one in entries or [])
    served = isinstance(recipe.teacher, ServedModel)
    return served or named or "endpoint" in panel_of(recipe.score, recipe.teacher).needs
