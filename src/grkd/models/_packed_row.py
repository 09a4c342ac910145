"""Where the sequences of a packed row lie, as its attention is told."""

from typing import NamedTuple

import torch
from torch import Tensor


class PackedRow(NamedTuple):
    """Sequences of a packed row, and how their queries see keys.

    starts: int32 [sequences + 1], where each begins among the queries, and the last end.
    longest: keys of a sequence, at most. scale: of scores. softcap: of scores, None without one.
    window: tokens that are seen, one's own among them; None if all before are.
    key_starts: where each sequence begins among the keys; None if they begin where the queries do. A sequence may have
    more keys than queries. They end with those of its own tokens: its last query sees its last key.
    """

    starts: Tensor
    longest: int
    scale: float
    softcap: float | None = None
    window: int | None = None
    key_starts: Tensor | None = None

    @property
    def starts_of_keys(self) -> Tensor:
        """Where each sequence begins among the keys."""
        return self.starts if self.key_starts is None else self.key_starts


def sequences(starts: Tensor, tokens: int) -> Tensor:
    """The number of the sequence that each token belongs to, [tokens]."""
    return torch.bucketize(torch.arange(tokens, device=starts.device, dtype=starts.dtype), starts[1:], right=True)


def tokens_behind(starts: Tensor, tokens: int) -> Tensor:
    """Of each token, how many of its sequence are left, itself counted; 0 or less behind the last sequence's end."""
    of = sequences(starts, tokens).clamp_max(len(starts) - 2)
    return starts[1:][of] - torch.arange(tokens, device=starts.device, dtype=starts.dtype)
