"""A recipe's plan, whatever its task."""

from dataclasses import replace

from grkd.planning.plan import Plan
from grkd.recipe import LanguageRecipe, Recipe


def make_plan(
    recipe: Recipe,
    *,
    measured: bool,
    prices: tuple[float, float] | None = None,
    hourly_usd: float | None = None,
) -> Plan:
    """measured: run a miniature for the times. prices: USD per million tokens that an endpoint reads and writes.

    hourly_usd: price of this machine. Raises UserError as the run.
    """
    if isinstance(recipe, LanguageRecipe):
        from grkd.planning.language import plan_language

        plan = plan_language(recipe, measured=measured, prices=prices)
    else:
        from grkd.planning.steps import plan_steps

        plan = plan_steps(recipe, measured=measured)
    if hourly_usd is None or not plan.stages:
        return plan
    return replace(plan, money={**plan.money, "machine": plan.seconds / 3600 * hourly_usd})
