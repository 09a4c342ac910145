"""A token's candidates in the teacher's order as bytes: bit-packed ids, and on request 8-bit log-probabilities.

Records of the top candidates, and of an order alone, have one size: `entries` ids of `id_bits` bits, best first, then a
bit between neighbours that the teacher ties, then with log-probabilities a byte per entry and one of the mass of all
others. Records of a sample with weights have as many entries as the token needs: grkd.teacher._sample_records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from grkd.errors import UserError
from grkd.teacher import _sample_records
from grkd.teacher._record_bits import MOST_BITS, bits_of, log_probs_of, nearest_codes, read_bits, to_bytes
from grkd.teacher.token_candidates import Candidates

Choose = Literal["top", "sample"]

_MOST_OF_MEAN = 4  # times the mean number of entries, which no token has more of


@dataclass(frozen=True, kw_only=True)
class RankCodec:
    """What a record holds, and how it is written and read.

    entries: per token; with `share` their mean. share: of a sample with weights, the largest mass that an entry which
    was drawn stands for: each token has the fewest entries that this allows, from 2 to `largest`. None: `entries` each.
    Raises UserError for numbers out of range.
    """

    vocabulary: int
    entries: int = 16
    choose: Choose = "top"
    log_probs: bool = False
    share: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= self.vocabulary:
            raise UserError(f"entries must be between 2 and the {self.vocabulary} candidates, got {self.entries}")
        if self.id_bits > MOST_BITS:
            raise UserError(f"a vocabulary of {self.vocabulary} is beyond {1 << MOST_BITS}")
        if self.choose not in ("top", "sample"):
            raise UserError(f"choose must be top or sample, got {self.choose!r}")
        if self.is_weighted_sample and self.entries > _sample_records.MOST_ENTRIES:
            raise UserError(f"entries of a sample must be at most {_sample_records.MOST_ENTRIES}, got {self.entries}")

    @property
    def is_weighted_sample(self) -> bool:
        """Whether records have lengths of their own."""
        return self.choose == "sample" and self.log_probs

    @property
    def largest(self) -> int:
        """The most entries of a token."""
        if self.share is None:
            return self.entries
        return min(_MOST_OF_MEAN * self.entries, _sample_records.MOST_ENTRIES, self.vocabulary - 1)

    @property
    def id_bits(self) -> int:
        return (self.vocabulary - 1).bit_length()

    @property
    def order_bytes(self) -> int:
        """Bytes of the ids and ties of a record of one size."""
        return -(-(self.entries * (self.id_bits + 1) - 1) // 8)

    @property
    def record_bytes(self) -> int:
        """Bytes per token of a record of one size; of a sample with weights those of the longest."""
        if self.is_weighted_sample:
            return _sample_records.row_bytes(self.largest, self.id_bits)
        return self.order_bytes + (self.entries + 1 if self.log_probs else 0)

    def encode(
        self, candidates: Candidates, *, generator: torch.Generator | None = None
    ) -> UInt8[Tensor, "tokens bytes"]:
        """A row per token, on the CPU. Weights of a sample are rounded at random so that their mean is exact.

        generator: of the rounding, on the CPU.
        """
        if self.is_weighted_sample:
            sizes = {"id_bits": self.id_bits, "largest": self.largest}
            return _sample_records.encoded(candidates, **sizes, generator=generator)
        bits = torch.cat([bits_of(candidates.ids, self.id_bits).flatten(1), candidates.tied.long()], -1)
        parts = [to_bytes(bits)]
        if self.log_probs:
            assert candidates.log_weights is not None
            assert candidates.log_tail is not None
            parts.append(nearest_codes(torch.cat([candidates.log_weights, candidates.log_tail.unsqueeze(-1)], -1)))
        return torch.cat(parts, -1).cpu()

    def decode(self, rows: UInt8[Tensor, "tokens bytes"]) -> Candidates:
        """Candidates on the rows' device. Raises ValueError for rows of another size."""
        if self.is_weighted_sample:
            return _sample_records.decoded(rows, id_bits=self.id_bits, largest=self.largest)
        if rows.shape[-1] != self.record_bytes:
            raise ValueError(f"records of {rows.shape[-1]} bytes, expected {self.record_bytes}")
        order = rows[:, : self.order_bytes]
        ids = read_bits(order, torch.arange(self.entries, device=rows.device) * self.id_bits, self.id_bits)
        gap = self.entries * self.id_bits + torch.arange(self.entries - 1, device=rows.device)
        tied = read_bits(order, gap, 1).bool()
        if not self.log_probs:
            return Candidates(ids=ids, tied=tied)
        logs = log_probs_of(rows[:, self.order_bytes :])
        return Candidates(ids=ids, tied=tied, log_weights=logs[:, :-1], log_tail=logs[:, -1])

    def pack(self, rows: UInt8[Tensor, "tokens bytes"]) -> UInt8[Tensor, "stored width"]:
        """What a shard stores of a response."""
        return _sample_records.packed(rows, id_bits=self.id_bits) if self.is_weighted_sample else rows

    def unpack(self, stored: UInt8[Tensor, "stored width"]) -> UInt8[Tensor, "tokens bytes"]:
        """The rows of a response's tokens. Raises ValueError for bytes that do not add up."""
        return _sample_records.unpacked(stored, id_bits=self.id_bits) if self.is_weighted_sample else stored


def joined(rows: Sequence[UInt8[Tensor, "_ _"]]) -> UInt8[Tensor, "tokens bytes"]:
    """Rows of several responses, as wide as the widest."""
    width = max(each.shape[-1] for each in rows)
    return torch.cat([torch.nn.functional.pad(each, (0, width - each.shape[-1])) for each in rows])
