"""Random numbers that are a function of a seed and a counter: the same row draws the same, however rows are split."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = 0xFFFFFFFF
# Constants of Philox 4x32-10: multipliers of a round, and what is added to the key.
_FACTORS, _KEY_STEPS, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10


def uniforms(seeds: Int[Tensor, " rows"], count: int) -> Float[Tensor, "rows count"]:
    """`count` numbers in (0, 1) per row, float32 multiples of 2^-24 plus half of one; seeds: int64, one per row.

    Number n is word n % 4 of Philox at counter (n // 4, 0, 0, 0) with the row's seed as key.
    Source: Salmon et al., SC 2011 (Philox 4x32-10).
    """
    counters = torch.arange(-(-count // 4), device=seeds.device)
    zero = counters.new_zeros(())
    words = torch.stack(philox([counters, zero, zero, zero], seeds[:, None]), -1).flatten(1)[:, :count]
    return ((words >> 8).float() + 0.5) * 2.0**-24


def philox(counter: Sequence[Tensor], keys: Int[Tensor, "..."]) -> list[Tensor]:
    """The four 32-bit words, as int64, of Philox 4x32-10; counter: four of 32 bits, keys: of 64 bits; broadcast."""
    words = list(torch.broadcast_tensors(*counter))
    halves = [keys & _WORD, (keys >> 32) & _WORD]
    for _ in range(_ROUNDS):
        # The product of two 32-bit words may wrap to a negative int64; shift and mask still give its halves.
        products = [words[0] * _FACTORS[0], words[2] * _FACTORS[1]]
        words = [
            ((products[1] >> 32) & _WORD) ^ words[1] ^ halves[0],
            products[1] & _WORD,
            ((products[0] >> 32) & _WORD) ^ words[3] ^ halves[1],
            products[0] & _WORD,
        ]
        halves = [(half + step) & _WORD for half, step in zip(halves, _KEY_STEPS, strict=True)]
    return words
