"""Teacher scores of response tokens that are stored as numbers: no teacher's weight is needed to train from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.data.language import Item
from grkd.teacher.signal import HiddenCache

TopK = tuple[Int[Tensor, "response k"], Float[Tensor, "response k"]]

_SMALLEST = 1e-7  # of the tail's mass, whose logarithm must be finite
_KEY = "teacher_top_k"


@runtime_checkable
class StoredScores(Protocol):
    """What training asks of them. Rows are response tokens, item by item."""

    def has(self, item: Item) -> bool: ...

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """What a batch of these items needs; the keys are its own."""
        ...

    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        """Log-probabilities of every entry from what `collate` put into the batch; None for a batch without."""
        ...


class TopKScores:
    """The k likeliest entries per token and their log-probabilities, in shards of `folder`. (They are StoredScores.)

    The other entries share what is left of the mass equally, so they are tied below the k: 8k bytes per token.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = HiddenCache(folder)  # rows [response, 2k]: ids, exact as float32 below 2^24, and log-probabilities

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._rows

    def has(self, item: Item) -> bool:
        return item.id in self._rows

    def __getitem__(self, item_id: str) -> TopK:
        """Ids and log-probabilities, nats; raises KeyError for an item that is not there."""
        ids, log_probs = self._rows[item_id].chunk(2, dim=-1)
        return ids.int(), log_probs

    def write_shard(self, items: Mapping[str, TopK], *, number: int | None = None) -> Path:
        """Write one more shard; see HiddenCache."""
        rows = {name: torch.cat([ids.float(), log_probs.float()], dim=-1) for name, (ids, log_probs) in items.items()}
        return self._rows.write_shard(rows, number=number)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {_KEY: torch.cat([self._rows[item.id] for item in items])}

    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        if _KEY not in batch:
            return None
        ids, log_probs = batch[_KEY].chunk(2, dim=-1)
        return with_tail(ids.long(), log_probs, vocabulary=vocabulary)


def with_tail(
    ids: Int[Tensor, "rows k"], log_probs: Float[Tensor, "rows k"], *, vocabulary: int
) -> Float[Tensor, "rows vocabulary"]:
    """log p of every entry: p_i of the k, and (1 - sum_k p) / (vocabulary - k) of each other one. float32, nats.

    No tail entry is above the k-th: each of them was below it, and so is their mean. Ids beyond the vocabulary, which a
    server names of a padded head, are cut as on all sides: p is that of an entry which is none of them.
    """
    inside = ids < vocabulary
    masses = log_probs.double().exp()
    cut = (masses * ~inside).sum(-1, keepdim=True).clamp_max(1 - _SMALLEST)
    left = (1 - masses.sum(-1, keepdim=True)).clamp_min(_SMALLEST)
    others = (vocabulary - inside.sum(-1, keepdim=True)).clamp_min(1)
    tail = (left / others).log().to(log_probs.dtype).expand(-1, vocabulary + 1)
    whole = (1 - cut).log().to(log_probs.dtype)
    return tail.scatter(-1, ids.clamp_max(vocabulary), log_probs)[:, :vocabulary] - whole
