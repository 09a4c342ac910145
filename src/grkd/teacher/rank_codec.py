"""A token's candidates in the teacher's order as bytes: bit-packed ids, and on request 8-bit log-probabilities.

A record is `entries` ids of `id_bits` bits, best first, then a bit between neighbours that the teacher ties, then with
log-probabilities: of the top candidates a byte per entry and one of the mass of all others; of a sample, whose weights
add up to 1, a byte per entry but the best.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from grkd.errors import UserError

Choose = Literal["top", "sample"]

# A code c stands for the log-probability _HIGHEST[choose] - _RANGE (c / 255)^2, finer where probabilities are large.
_RANGE = 24.5
_HIGHEST = {"top": 0.0, "sample": math.log(0.5)}  # the best of a sample is not coded, so no weight is above 1/2
_MOST_BITS = 25  # an id and its shift within 32 bits


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates of N tokens, the teacher's best first.

    ids: [N, entries]. tied: [N, entries - 1], whether the teacher scores neighbours alike. log_weights: log of each
    one's weight in soft targets, None in a record of the order alone. log_tail: log of the mass of all others, None but
    for the top candidates.
    """

    ids: Int[Tensor, "tokens entries"]
    tied: Bool[Tensor, "tokens gaps"]
    log_weights: Float[Tensor, "tokens entries"] | None = None
    log_tail: Float[Tensor, " tokens"] | None = None

    @property
    def tiers(self) -> Int[Tensor, "tokens entries"]:
        """Number of the tier that each candidate is in, from 0: neighbours that are tied share one."""
        first = torch.zeros_like(self.ids[:, :1])
        return torch.cat([first, (~self.tied).long().cumsum(-1)], -1)


@dataclass(frozen=True, kw_only=True)
class RankCodec:
    """What a record holds, and how it is written and read.

    Raises UserError for numbers out of range.
    """

    vocabulary: int
    entries: int = 16
    choose: Choose = "top"
    log_probs: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= self.vocabulary:
            raise UserError(f"entries must be between 2 and the {self.vocabulary} candidates, got {self.entries}")
        if self.id_bits > _MOST_BITS:
            raise UserError(f"a vocabulary of {self.vocabulary} is beyond {1 << _MOST_BITS}")
        if self.choose not in ("top", "sample"):
            raise UserError(f"choose must be top or sample, got {self.choose!r}")

    @property
    def id_bits(self) -> int:
        return (self.vocabulary - 1).bit_length()

    @property
    def order_bytes(self) -> int:
        return -(-(self.entries * (self.id_bits + 1) - 1) // 8)

    @property
    def record_bytes(self) -> int:
        """Bytes per token."""
        return self.order_bytes + (self._codes_of if self.log_probs else 0)

    @property
    def _codes_of(self) -> int:
        return self.entries + (1 if self.choose == "top" else -1)

    def encode(
        self, candidates: Candidates, *, generator: torch.Generator | None = None
    ) -> UInt8[Tensor, "tokens bytes"]:
        """Records on the CPU. Weights of a sample are rounded up or down at random so that their mean is exact.

        generator: of the rounding, on the CPU.
        """
        ids, device = candidates.ids, candidates.ids.device
        bits = ((ids.unsqueeze(-1) >> torch.arange(self.id_bits, device=device)) & 1).flatten(1)
        bits = torch.cat([bits, candidates.tied.long()], -1)
        bits = torch.nn.functional.pad(bits, (0, self.order_bytes * 8 - bits.shape[-1]))
        parts = [(bits.view(len(bits), -1, 8) << torch.arange(8, device=device)).sum(-1).to(torch.uint8)]
        if self.log_probs:
            assert candidates.log_weights is not None
            logs = candidates.log_weights[:, 1:]
            if self.choose == "top":
                assert candidates.log_tail is not None
                logs = torch.cat([candidates.log_weights, candidates.log_tail.unsqueeze(-1)], -1)
            parts.append(self._codes(logs, generator))
        return torch.cat(parts, -1).cpu()

    def decode(self, records: UInt8[Tensor, "tokens bytes"]) -> Candidates:
        """Candidates on the records' device. Raises ValueError for records of another size."""
        if records.shape[-1] != self.record_bytes:
            raise ValueError(f"records of {records.shape[-1]} bytes, expected {self.record_bytes}")
        start = torch.arange(self.entries, device=records.device) * self.id_bits
        # Four bytes hold an id of up to 25 bits wherever it begins; those beyond the record's end are of no use.
        places = (start[:, None] // 8 + torch.arange(4, device=records.device)).clamp_max(self.order_bytes - 1)
        words = records[:, places].long() << (8 * torch.arange(4, device=records.device))
        ids = (words.sum(-1) >> (start % 8)) & ((1 << self.id_bits) - 1)
        gap = self.entries * self.id_bits + torch.arange(self.entries - 1, device=records.device)
        tied = ((records[:, gap // 8].long() >> (gap % 8)) & 1).bool()
        if not self.log_probs:
            return Candidates(ids=ids, tied=tied)
        logs = self._levels(records.device)[records[:, self.order_bytes :].long()]
        if self.choose == "top":
            return Candidates(ids=ids, tied=tied, log_weights=logs[:, :-1], log_tail=logs[:, -1])
        best = (1 - logs.exp().sum(-1, keepdim=True)).clamp_min(math.exp(-_RANGE)).log()
        return Candidates(ids=ids, tied=tied, log_weights=torch.cat([best, logs], -1))

    def _levels(self, device: torch.device) -> Float[Tensor, "256"]:
        return _HIGHEST[self.choose] - _RANGE * (torch.arange(256, device=device) / 255) ** 2

    def _codes(self, logs: Float[Tensor, "tokens n"], generator: torch.Generator | None) -> UInt8[Tensor, "tokens n"]:
        """The nearest code; of a sample's weights one of the two around it, so that the mean of the weight is kept."""
        highest = _HIGHEST[self.choose]
        depth = ((highest - logs.double()).clamp(0, _RANGE) / _RANGE).sqrt() * 255
        if self.choose == "top":
            return depth.round().to(torch.uint8)
        levels = self._levels(logs.device).double().exp()
        above = depth.floor().long().clamp(0, 254)
        high, low = levels[above], levels[above + 1]
        share = ((high - logs.double().exp()) / (high - low)).clamp(0, 1)
        lower = torch.rand(share.shape, generator=generator, dtype=torch.float64).to(share.device) < share
        return (above + lower).to(torch.uint8)
