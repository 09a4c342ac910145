"""How large the batches of a training are: drawn as training draws them, since padding depends on what meets."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from grkd.data.language import Group, Item
from grkd.recipe import LanguageRecipe
from grkd.training.groups_of_responses import group_of

_DRAWN = 200  # batches; more say nothing new
_SCORED = 20_000  # prompts; more bring few new sizes


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


def scored_sizes(recipe: LanguageRecipe, examples: Sequence[Group | Item], *, prompts: int) -> int:
    """How many different sizes the score stage's batches have: a GPU prepares attention anew for each.

    As many prompts as are asked for are drawn from `examples`; a chunk's sequences are taken by their length.
    """
    drawn, sizes = random.Random(0), set()
    groups = [group_of(one).items for one in examples]
    chosen = drawn.choices(groups, k=min(prompts, _SCORED)) if groups else []
    for at in range(0, len(chosen), recipe.responses.shard_size):
        items = [item for group in chosen[at : at + recipe.responses.shard_size] for item in group]
        lengths = sorted(((len(one.prompt_ids), len(one.response_ids)) for one in items), key=lambda both: -sum(both))
        for start in range(0, len(lengths), recipe.score.batch_size):
            prompt, response = zip(*lengths[start : start + recipe.score.batch_size], strict=True)
            sizes.add((len(prompt), max(prompt), max(response)))
    return len(sizes)


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
