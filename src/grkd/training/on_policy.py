"""Answers that the student gives while it is trained: which prompts it is asked, and what draws them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from grkd.models.sample_mixed import sample_on_policy

# (student, prompts as token ids, the teacher's weight in the mixture, seed) -> of each prompt, token ids and their
# log-probabilities under the distribution that they were drawn from.
Sampler = Callable[[nn.Module, list[list[int]], float, int], list[tuple[list[int], list[float]]]]


def on_policy_sampler(teacher: nn.Module | None, *, batch_size: int | None = None, **settings: Any) -> Sampler:
    """Answers of the student as it is now, at temperature 1 over the vocabulary, `batch_size` (None: all) at once.

    settings: max_new_tokens, stop_ids, pad_token_id and vocabulary of grkd.models.sample_mixed.sample_on_policy.
    """

    def sample(
        student: nn.Module, prompts: list[list[int]], mixed_in: float, seed: int
    ) -> list[tuple[list[int], list[float]]]:
        return sample_on_policy(
            student,
            teacher,
            prompts,
            teacher_mix=mixed_in,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
            batch_size=batch_size or len(prompts),
            **settings,
        )

    return sample


def asked_anew(groups: int, share: float, seed: int) -> list[int]:
    """The numbers of the groups that are answered anew: each with the probability `share`."""
    draws = torch.rand(groups, generator=torch.Generator().manual_seed(seed))
    return [number for number, draw in enumerate(draws.tolist()) if draw < share]
