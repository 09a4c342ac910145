"""The parts of the on-policy experiment, each with a recipe of its own and a file of results."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Look:
    """One of the experiment's parts: its recipe, its folder within a sitting's, its file of results.

    prompts: per step. stored: methods that learn from stored groups alone. own: methods whose groups are all the
    student's, whatever share of stored ones the recipe has. last: methods that run after all others, in time that is
    left. long_steps: optimiser steps of methods named -long, which run with the first seed, after those.
    """

    recipe: str
    folder: str
    file: str
    prompts: int = 32
    stored: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    long_steps: int = 1000


LOOKS = {
    "first": Look(recipe="on-policy-arithmetic.yaml", folder="compare", file="on-policy.json"),
    "mixed": Look(
        recipe="on-policy-mixed.yaml",
        folder="mixed",
        file="on-policy-mixed.json",
        stored=frozenset({"kd", "kd-long", "grkd-stored", "grkd-stored-long"}),
        last=frozenset({"opd-mixed"}),
    ),
    "long": Look(
        recipe="on-policy-long.yaml",
        folder="long",
        file="on-policy-long.json",
        prompts=8,
        stored=frozenset({"kd"}),
        own=frozenset({"grpo-teacher-kl"}),
        last=frozenset({"opd-mixed"}),
    ),
}
