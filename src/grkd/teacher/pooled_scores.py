"""Several teachers' scores of tokens as one, and the hidden states of one of them in that form."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.data.language import Item
from grkd.groups import wide
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import StoredScores

_ASKED = "asked"


class HiddenScores:
    """A teacher's stored hidden states and its head. (They are StoredScores.)"""

    def __init__(self, folder: Path) -> None:
        self._cache, self._head = HiddenCache(folder / "hidden"), TeacherHead.load(folder / "head.safetensors")

    def has(self, item: Item) -> bool:
        return item.id in self._cache

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {"hidden": torch.cat([self._cache[item.id] for item in items])}

    @torch.no_grad()
    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        hidden = batch["hidden"]
        found: Tensor = self._head.to(hidden.device)(hidden)
        return found[:, :vocabulary]


class PooledScores:
    """The weighted mean of teachers' log-probabilities, over the teachers that were asked about an item.

    log q_i = sum_t w_t log p_t(i) / sum_t w_t, up to a constant: their geometric mean. (They are StoredScores.)
    Raises ValueError for an item that no teacher scored.
    Source: the logarithmic opinion pool (Heskes 1998, Selecting weighting factors in logarithmic opinion pools).
    """

    def __init__(self, teachers: Sequence[tuple[StoredScores, float | int]]) -> None:
        self.teachers = list(teachers)

    def has(self, item: Item) -> bool:
        return any(stored.has(item) for stored, _ in self.teachers)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        missing = [item.id for item in items if not self.has(item)]
        if missing:
            raise ValueError(f"no teacher has scored {missing[0]}")
        found: dict[str, Tensor] = {}
        lengths = torch.tensor([len(item.response_ids) for item in items])
        for number, (stored, _) in enumerate(self.teachers):
            asked = [stored.has(item) for item in items]
            found[_name(number, _ASKED)] = torch.tensor(asked).repeat_interleave(lengths)
            own = [item for item, each in zip(items, asked, strict=True) if each]
            for name, value in (stored.collate(own) if own else {}).items():
                found[_name(number, name)] = value
        return found

    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        if _name(0, _ASKED) not in batch:
            return None
        log_probs, weights = self.each(batch, vocabulary=vocabulary)
        total = sum(weight.unsqueeze(-1) * own for weight, own in zip(weights, log_probs, strict=True))
        assert isinstance(total, Tensor)
        return total / weights.sum(0).unsqueeze(-1)

    def each(
        self, batch: Mapping[str, Any], *, vocabulary: int
    ) -> tuple[list[Float[Tensor, "rows vocabulary"]], Float[Tensor, "teachers rows"]]:
        """Every teacher's log-probabilities, and its weight in each row: 0 if it was not asked, its scores then 0."""
        found, weights = [], []
        for number, (stored, weight) in enumerate(self.teachers):
            rows, start = batch[_name(number, _ASKED)], _name(number, "")
            own = {name.removeprefix(start): value for name, value in batch.items() if name.startswith(start)}
            scores = torch.zeros(len(rows), vocabulary, device=rows.device)
            if len(own) > 1:  # asked about some
                known = stored.scores(own, vocabulary=vocabulary)
                assert known is not None
                scores[rows] = wide(known).log_softmax(-1)
            found.append(scores)
            weights.append(weight * rows.to(scores.dtype))
        return found, torch.stack(weights)


def _name(number: int, name: str) -> str:
    return f"teacher_{number}/{name}"
