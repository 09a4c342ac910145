"""Several frozen language models as one: their weighted mean log-probability, or each one's for votes."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grkd.data.language import response_logits
from grkd.groups import wide


class PooledModel(nn.Module):
    """log q = sum_t w_t log p_t / sum_t w_t, up to a constant, over the first `vocabulary` entries, as logits.

    Models take turns on the same inputs; config is the first one's. It has no head of its own, so that its logits are
    always made whole. only: of each model the column and value of the records that it is asked about; empty: all.
    Source: the logarithmic opinion pool (Heskes 1998, Selecting weighting factors in logarithmic opinion pools).
    """

    def __init__(
        self,
        models: Sequence[Any],
        weights: Sequence[float | int],
        *,
        vocabulary: int,
        only: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.models, self.weights, self.vocabulary = nn.ModuleList(models), tuple(weights), vocabulary
        self.only = tuple(only) or ({},) * len(models)
        self.config, self.generation_config = models[0].config, models[0].generation_config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def get_output_embeddings(self) -> None:
        return None

    def weights_of(self, columns: Mapping[str, Any] | None) -> list[float]:
        """Each model's weight for a record with these columns; 0: it is not asked."""
        known = columns or {}
        asked = [all(known.get(name) == value for name, value in only.items()) for only in self.only]
        return [float(weight) * each for weight, each in zip(self.weights, asked, strict=True)]

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, logits_to_keep: Any = 0, **kwargs: Any
    ) -> SimpleNamespace:
        """As the models' own forward, which take logits_to_keep; its `logits` are the pooled log-probabilities."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": logits_to_keep, **kwargs}
        total: Any = 0.0
        for model, weight in zip(self.models, self.weights, strict=True):
            logits = model(**given).logits[..., : self.vocabulary]
            total = total + weight * wide(logits).log_softmax(-1)
        return SimpleNamespace(logits=total / sum(self.weights))

    def token_log_probs(self, batch: Mapping[str, Tensor]) -> list[Float[Tensor, "tokens vocabulary"]]:
        """Each model's log-probabilities of a padded batch's response tokens, item by item."""
        mask = batch["response_mask"]
        found = []
        for model in self.models:
            logits = response_logits(model, batch)[mask][:, : self.vocabulary]
            found.append(wide(logits).log_softmax(-1))
        return found
