"""Settings that every task has: seeds, rates, and the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from grkd.doctor.finding import Finding, note, warning
from grkd.recipe import ClassifierRecipe, LanguageRecipe, RankRecipe, Recipe

_SEEDS = 3
_LEAST_DISK = 1 << 30  # bytes
# Above these a pretrained model forgets what it knew within some steps.
_HIGHEST_RATE, _HIGHEST_LORA_RATE = 1e-3, 5e-3


def look_at_settings(recipe: Recipe) -> Iterator[Finding]:
    """What the recipe's own numbers show."""
    if len(recipe.seeds) < _SEEDS:
        yield note(
            "seeds",
            f"{'1 seed' if len(recipe.seeds) == 1 else '2 seeds'} per method: no method can be called better",
            f"seeds: {list(range(_SEEDS))}, or more; `grkd plan` says what difference they show",
        )
    rate, highest = recipe.training.learning_rate, _highest(recipe)
    if highest is not None and rate > highest:
        yield warning(
            "learning rate",
            f"training.learning_rate is {rate:g}; a pretrained student forgets above about {highest:g}",
            "set it to 1e-5 to 5e-4 (LoRA: up to 2e-3), or let `grkd compare` search it",
        )
    there = next(path for path in (Path(recipe.output), *Path(recipe.output).parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < _LEAST_DISK:
        yield warning("disk", f"{free / 2**30:.1f} GiB are free at {there}", "free some, or set output elsewhere")


def _highest(recipe: Recipe) -> float | None:
    """The highest sensible learning rate of a pretrained student; None for one that starts from nothing."""
    if isinstance(recipe, LanguageRecipe):
        if recipe.student.config is not None:
            return None
        return _HIGHEST_RATE if recipe.student.lora is None else _HIGHEST_LORA_RATE
    if isinstance(recipe, RankRecipe):
        return None if recipe.student.model == "tower" else _HIGHEST_RATE
    assert isinstance(recipe, ClassifierRecipe)
    return None if recipe.student.has_factory else _HIGHEST_RATE


def few_steps(examples: int, recipe: Recipe) -> Iterator[Finding]:
    """A training of a handful of steps, most of them in the warm-up. examples: of the training part."""
    training = recipe.training
    if training.minutes is not None:
        return
    per_step = training.batch_size * training.gradient_accumulation
    steps = training.steps_for(examples)
    if steps < 20:
        yield warning(
            "steps",
            f"a student trains for {steps} optimiser steps ({examples} training examples, {per_step} per step)",
            "raise training.epochs or lower training.batch_size; 100 steps or more are usual",
        )
