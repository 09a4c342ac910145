"""How large the batches of a training are: drawn as training draws them, since padding depends on what meets."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from grkd.data.language import Group, Item
from grkd.recipe import LanguageRecipe
from grkd.training.groups_of_responses import group_of

_DRAWN = 200  # batches; more say nothing new


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Tokens of a forward pass, padding counted: the mean, and the largest; and the most tokens that have a loss."""

    mean_tokens: float
    most_tokens: int
    most_response_tokens: int


def expected_batches(recipe: LanguageRecipe, examples: Sequence[Group | Item], *, steps: int = _DRAWN) -> Batches:
    """Batches of the recipe's size from these examples, shuffled anew in every epoch. examples: a sample of the data.

    steps: of the training whose largest pass is asked for.
    """
    training, drawn = recipe.training, random.Random(0)
    groups = [group_of(one).items for one in examples]
    if not groups:
        return Batches(mean_tokens=0.0, most_tokens=0, most_response_tokens=0)
    passes: list[tuple[int, int]] = []
    waiting: list[int] = []
    size = min(training.batch_size, len(groups))
    for _ in range(min(_DRAWN, max(1, steps)) * training.gradient_accumulation):
        if len(waiting) < size:
            waiting = drawn.sample(range(len(groups)), len(groups))
        batch, waiting = waiting[:size], waiting[size:]
        passes += _passes([groups[number] for number in batch], training.tokens_per_batch)
    return Batches(
        mean_tokens=statistics.fmean(tokens for tokens, _ in passes),
        most_tokens=max(tokens for tokens, _ in passes),
        most_response_tokens=max(targets for _, targets in passes),
    )


def _passes(groups: Sequence[Sequence[Item]], budget: int | None) -> list[tuple[int, int]]:
    """(tokens, tokens with a loss) per forward pass: a padded batch, or packed rows of about equal size."""
    items = [item for group in groups for item in group]
    responses = [len(item.response_ids) for item in items]
    prompts = [len(item.prompt_ids) for item in items]
    if budget is None:
        return [((max(prompts) + max(responses)) * len(items), sum(responses))]
    own = sum(prompts) + sum(responses)
    number = -(-own // budget)
    return [(own // number, sum(responses) // number)] * number
