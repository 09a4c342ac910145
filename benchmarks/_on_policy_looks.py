"""The parts of the on-policy experiment, each with a recipe of its own and a file of results."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Look:
    """One of the experiment's parts: its recipe, its folder within a sitting's, its file of results.

    prompts: per step. stored: methods that learn from stored groups alone. own: methods whose groups are all the
    student's, whatever share of stored ones the recipe has. last: methods that run after all others, in time that is
    left. long_steps: optimiser steps of methods named -long, which run with the first seed, after those. questions: the
    data file whose answers are measured. shares: of a method, the share of its prompts that keep their stored groups,
    where it is not the recipe's.
    """

    recipe: str
    folder: str
    file: str
    prompts: int = 32
    stored: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    long_steps: int = 1000
    questions: str = "test.jsonl"
    shares: dict[str, float] = field(default_factory=dict)


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
    "pilot": Look(
        recipe="on-policy-pilot.yaml",
        folder="pilot",
        file="on-policy-pilot.json",
        prompts=8,
        stored=frozenset({"kd", "kd-t1"}),
        questions="validation.jsonl",
        shares={"grkd-eighth": 0.875},
    ),
    "kept": Look(
        recipe="on-policy-kept.yaml",
        folder="kept",
        file="on-policy-kept.json",
        prompts=8,
        stored=frozenset({"kd"}),
        own=frozenset({"grpo-teacher-kl"}),
    ),
}
