"""Draws inside transformers' `generate`: by a seed per prompt, so that a text does not depend on its batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from grkd.data.language import cut_vocabulary
from grkd.files import digest
from grkd.kernels import draw_tokens


class SeededDraws(LogitsProcessor):
    """Draws the next token of each row and leaves no other to choose; keeps the log-probability of each.

    For generate(do_sample=False). Options as in grkd.kernels.draw_tokens.
    """

    def __init__(self, seeds: Int[Tensor, " batch"], *, temperature: float, top_p: float, vocabulary: int) -> None:
        self.seeds, self.temperature, self.top_p, self.vocabulary = seeds, temperature, top_p, vocabulary
        self._log_probs: list[Tensor] = []  # per step

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch head"]
    ) -> Float[Tensor, "batch head"]:
        places = torch.full_like(self.seeds, len(self._log_probs))
        tokens, log_probs = draw_tokens(
            self.scores_of(input_ids, scores), self.seeds, places, temperature=self.temperature, top_p=self.top_p
        )
        self._log_probs.append(log_probs)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens[:, None], 0.0)

    def scores_of(self, input_ids: Tensor, scores: Tensor) -> Float[Tensor, "batch vocabulary"]:
        """What is drawn from, before the temperature."""
        return cut_vocabulary(scores, self.vocabulary)

    def log_probs(self, steps: int) -> Float[Tensor, "batch steps"]:
        """Of the tokens of the first steps; generate() may have run further than what it returns."""
        return torch.stack(self._log_probs[:steps], -1)


def seeds_of(seed: int, prompts: Sequence[Sequence[int]]) -> list[int]:
    """A seed of 63 bits per prompt, by its tokens and the number of equal prompts before it."""
    before: dict[tuple[int, ...], int] = {}
    found = []
    for prompt in prompts:
        key = tuple(prompt)
        number = before[key] = before.get(key, -1) + 1
        found.append(int(digest([seed, list(prompt), number])[:16], 16) >> 1)
    return found
