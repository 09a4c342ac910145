"""Bits and bytes of a cache's records, and the log-probabilities that 8 bits stand for."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# A code c stands for the log-probability -RANGE (c / 255)^2, finer where probabilities are large.
RANGE = 24.5
MOST_BITS = 25  # of a number that is read: it and its shift within 32 bits


def bits_of(numbers: Int[Tensor, "*shape"], width: int) -> Int[Tensor, "*shape bits"]:
    """The lowest bit first."""
    return (numbers.unsqueeze(-1) >> torch.arange(width, device=numbers.device)) & 1


def to_bytes(bits: Int[Tensor, "rows bits"]) -> UInt8[Tensor, "rows bytes"]:
    """Eight bits per byte; what is missing of the last one is 0."""
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << torch.arange(8, device=bits.device)).sum(-1).to(torch.uint8)


def read_bits(rows: UInt8[Tensor, "rows bytes"], start: Int[Tensor, " numbers"], width: int) -> Int[Tensor, "rows n"]:
    """Numbers of `width` bits, at most MOST_BITS, that begin at these bits of each row."""
    # Four bytes hold one wherever it begins; those beyond the row's end are of no use.
    places = (start[:, None] // 8 + torch.arange(4, device=rows.device)).clamp_max(rows.shape[-1] - 1)
    words = rows[:, places].long() << (8 * torch.arange(4, device=rows.device))
    return (words.sum(-1) >> (start % 8)) & ((1 << width) - 1)


def log_probs_of(codes: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What codes stand for, nats."""
    return _levels(codes.device)[codes.long()].float()


def nearest_codes(logs: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest code of each log-probability."""
    return _depth(logs).round().to(torch.uint8)


def random_codes(logs: Float[Tensor, "*shape"], generator: torch.Generator | None) -> UInt8[Tensor, "*shape"]:
    """One of the two codes around each log-probability, so that the mean of the probability is kept.

    generator: on the CPU.
    """
    levels = _levels(logs.device).exp()
    above = _depth(logs).floor().long().clamp(0, 254)
    high, low = levels[above], levels[above + 1]
    share = ((high - logs.double().exp()) / (high - low)).clamp(0, 1)
    lower = torch.rand(share.shape, generator=generator, dtype=torch.float64).to(share.device) < share
    return (above + lower).to(torch.uint8)


def _levels(device: torch.device) -> Float[Tensor, "256"]:
    return -RANGE * (torch.arange(256, device=device, dtype=torch.float64) / 255) ** 2


def _depth(logs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return ((-logs.double()).clamp(0, RANGE) / RANGE).sqrt() * 255
