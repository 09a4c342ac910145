"""Answers that the student gives while it is trained: which prompts it is asked, and what draws them."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from grkd.files import digest
from grkd.models.sample_mixed import sample_on_policy

# (student, prompts as token ids, the teacher's weight in the mixture, a seed per prompt) -> of each prompt, token ids
# and their log-probabilities under the distribution that they were drawn from.
Sampler = Callable[[nn.Module, list[list[int]], float, list[int]], list[tuple[list[int], list[float]]]]


def on_policy_sampler(teacher: nn.Module | None, *, batch_size: int | None = None, **settings: Any) -> Sampler:
    """Answers of the student as it is now, at temperature 1 over the vocabulary, `batch_size` of them at a time.

    settings: max_new_tokens, stop_ids, pad_token_id and vocabulary of grkd.models.sample_mixed.sample_on_policy.
    """
    settings |= {"temperature": 1.0, "top_p": 1.0, "batch_size": batch_size}
    return lambda student, prompts, mixed_in, seeds: sample_on_policy(
        student, teacher, prompts, teacher_mix=mixed_in, seeds=seeds, **settings
    )


def group_seeds(seed: int, step: int, first: int, groups: int) -> list[int]:
    """A seed of 63 bits per group of a batch, by (seed, step, number of the group in the optimiser step).

    first: the number of the batch's first group, counted over micro-batches and ranks. A prompt's answers then do not
    depend on how the step is split.
    """
    return [mixed(seed, step, first + number) for number in range(groups)]


def answered_anew(seeds: Sequence[int], share: float) -> list[int]:
    """The places of the groups that are answered again: each with the probability `share`, by its own seed."""
    return [place for place, seed in enumerate(seeds) if random.Random(seed).random() < share]


def mixed(*numbers: int) -> int:
    """A seed of 63 bits, a function of the numbers."""
    return int(digest(list(numbers))[:16], 16) >> 1
