"""The on-policy experiments, each with a recipe and a file of results of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: its recipe, its folder within the sitting's, its file of results.

    prompts: per step. stored: methods that learn from stored groups alone. own: methods whose groups are all sampled
    from the current student, whatever stored_share the recipe has. last: methods that run after all others, in time
    that is left. long_steps: optimiser steps of methods named -long, which run with the first seed, after those.
    side_by_side: the methods of a seed are trained at the same time, and a seed begins only if all of it fits.
    extra_seconds: wall-clock time of a final run beside its training, until one is measured.
    """

    recipe: str
    folder: str
    file: str
    prompts: int = 32
    stored: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    long_steps: int = 1000
    side_by_side: bool = False
    extra_seconds: float = 11.0


EXPERIMENTS = {
    "first": Experiment(recipe="on-policy-arithmetic.yaml", folder="compare", file="on-policy.json"),
    "mixed": Experiment(
        recipe="on-policy-mixed.yaml",
        folder="mixed",
        file="on-policy-mixed.json",
        stored=frozenset({"kd", "kd-long", "grkd-stored", "grkd-stored-long"}),
        last=frozenset({"opd-mixed"}),
    ),
    "long": Experiment(
        recipe="on-policy-long.yaml",
        folder="long",
        file="on-policy-long.json",
        prompts=8,
        stored=frozenset({"kd"}),
        own=frozenset({"grpo-teacher-kl"}),
        last=frozenset({"opd-mixed"}),
    ),
    "full": Experiment(
        recipe="on-policy-full.yaml",
        folder="full",
        file="on-policy-full.json",
        prompts=8,
        stored=frozenset({"kd"}),
        own=frozenset({"grpo", "grpo-teacher-kl", "dpo"}),
        side_by_side=True,
        extra_seconds=45.0,
    ),
}
