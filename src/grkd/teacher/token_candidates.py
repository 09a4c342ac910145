"""The candidates of tokens that a cache of ranks keeps."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates of N tokens, the teacher's best first.

    ids: [N, entries]. tied: [N, entries - 1], whether the teacher scores neighbours alike. log_weights: log of each
    one's weight in soft targets, None in a record of the order alone. log_tail: log of the mass of all others, None but
    for the top candidates. counts: how many of the entries exist per token, None: all; behind them the best id is
    repeated, with the weight 0. certain: how many of a sample were in it for certain.
    """

    ids: Int[Tensor, "tokens entries"]
    tied: Bool[Tensor, "tokens gaps"]
    log_weights: Float[Tensor, "tokens entries"] | None = None
    log_tail: Float[Tensor, " tokens"] | None = None
    counts: Int[Tensor, " tokens"] | None = None
    certain: Int[Tensor, " tokens"] | None = None

    @property
    def exists(self) -> Bool[Tensor, "tokens entries"] | None:
        """Which entries exist; None: all."""
        if self.counts is None:
            return None
        return torch.arange(self.ids.shape[-1], device=self.ids.device) < self.counts[:, None]

    @property
    def tiers(self) -> Int[Tensor, "tokens entries"]:
        """Number of the tier that each candidate is in, from 0: neighbours that are tied share one.

        Entries that do not exist are in the tier of the best, whose id they repeat.
        """
        first = torch.zeros_like(self.ids[:, :1])
        tiers = torch.cat([first, (~self.tied).long().cumsum(-1)], -1)
        return tiers if self.exists is None else tiers * self.exists
