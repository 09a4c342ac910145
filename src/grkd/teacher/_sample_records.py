"""Records of samples with weights: as many entries as a token needs, so each record has a length of its own.

In memory a token's record is a row: a byte with the number n of its entries and one with the number k of those that
were in the sample for certain; per entry its id and a bit that says whether it is tied with the one before; from the
next whole byte on k codes of 8 bits: the mass of all uncertain entries, which share it equally, and the weights of the
certain ones but the best, which is what these leave of 1; then zeros. In a shard a response is the number of its tokens
(4 bytes), n and k of each, and the rows' other bytes without the zeros.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from grkd.teacher._record_bits import RANGE, bits_of, log_probs_of, random_codes, read_bits, to_bytes
from grkd.teacher.token_candidates import Candidates

MOST_ENTRIES = 255  # a count is a byte
_COUNTS = 2  # bytes before the entries: n and k


def row_bytes(entries: int, id_bits: int) -> int:
    """Bytes of a row of so many entries."""
    return _COUNTS + -(-entries * (id_bits + 1) // 8) + entries


def encoded(
    candidates: Candidates, *, id_bits: int, largest: int, generator: torch.Generator | None
) -> UInt8[Tensor, "tokens bytes"]:
    """Rows on the CPU of samples of at most `largest` entries.

    Weights are rounded up or down at random so that their mean is exact; generator: of that, on the CPU.
    """
    ids, logs, certain = candidates.ids, candidates.log_weights, candidates.certain
    assert logs is not None
    assert certain is not None
    counts = torch.full_like(ids[:, 0], ids.shape[-1]) if candidates.counts is None else candidates.counts
    place = torch.arange(ids.shape[-1], device=ids.device)
    exists = place < counts[:, None]
    tied = torch.nn.functional.pad(candidates.tied.long(), (1, 0)).unsqueeze(-1)
    bits = torch.cat([bits_of(ids, id_bits), tied], -1) * exists.unsqueeze(-1)
    order = to_bytes(bits.flatten(1))
    rows = torch.zeros(len(ids), row_bytes(largest, id_bits) + 1, dtype=torch.uint8, device=ids.device)
    rows[:, 0], rows[:, 1] = counts, certain
    rows[:, _COUNTS : _COUNTS + order.shape[-1]] = order
    shared = logs.masked_fill(~exists | (place < certain[:, None]), -torch.inf).logsumexp(-1, keepdim=True)
    codes = random_codes(torch.cat([shared, logs[:, 1:]], -1), generator)
    at = _COUNTS + _order_bytes(counts, id_bits)[:, None] + place
    rows.scatter_(-1, torch.where(place < certain[:, None], at, rows.shape[-1] - 1), codes)
    return rows[:, :-1].cpu()


def decoded(rows: UInt8[Tensor, "tokens bytes"], *, id_bits: int, largest: int) -> Candidates:
    """Samples on the rows' device, as wide as the rows' bytes may hold, at most `largest`."""
    counts, certain = rows[:, 0].long(), rows[:, 1].long()
    place = torch.arange(min(largest, (rows.shape[-1] - _COUNTS) * 8 // (id_bits + 1)), device=rows.device)
    start = 8 * _COUNTS + place * (id_bits + 1)
    exists = place < counts[:, None]
    ids = read_bits(rows, start, id_bits)
    tied = read_bits(rows, start + id_bits, 1)[:, 1:].bool() & exists[:, 1:]
    at = _COUNTS + _order_bytes(counts, id_bits)[:, None] + place
    coded = log_probs_of(rows.gather(-1, at.clamp_max(rows.shape[-1] - 1)))
    return Candidates(
        ids=torch.where(exists, ids, ids[:, :1]),
        tied=tied,
        log_weights=_log_weights(coded, counts, certain).masked_fill(~exists, -torch.inf),
        counts=counts,
        certain=certain,
    )


def _log_weights(
    coded: Float[Tensor, "tokens entries"], counts: Int[Tensor, " tokens"], certain: Int[Tensor, " tokens"]
) -> Float[Tensor, "tokens entries"]:
    """Of each entry, from the codes of the uncertain ones' mass and of the certain ones behind the best."""
    place = torch.arange(coded.shape[-1], device=coded.device)
    sure = place < certain[:, None]
    masses = coded.exp().masked_fill(~sure, 0.0)
    best = (1 - masses.sum(-1)).clamp_min(math.exp(-RANGE)).log()
    shared = torch.where(certain > 0, coded[:, 0], 0.0) - (counts - certain).clamp_min(1).log()
    logs = torch.where(sure, coded, shared[:, None])
    return torch.cat([torch.where(certain > 0, best, shared)[:, None], logs[:, 1:]], -1)


def packed(rows: UInt8[Tensor, "tokens bytes"], *, id_bits: int) -> UInt8[Tensor, "stored 1"]:
    """What a shard stores of a response, from the rows of its tokens on the CPU."""
    lengths, rest = _order_bytes(rows[:, 0].long(), id_bits) + rows[:, 1], rows[:, _COUNTS:]
    filled = rest[torch.arange(rest.shape[-1]) < lengths[:, None]]
    number = torch.tensor([len(rows)], dtype=torch.int32).view(torch.uint8)
    return torch.cat([number, rows[:, :_COUNTS].flatten(), filled])[:, None]


def unpacked(stored: UInt8[Tensor, "stored 1"], *, id_bits: int) -> UInt8[Tensor, "tokens bytes"]:
    """The rows of a response's tokens, as wide as the longest needs. Raises ValueError for bytes that do not add up."""
    flat = stored[:, 0].numpy()  # many small steps, whose overhead is less in NumPy
    begin = 4 + _COUNTS * int.from_bytes(flat[:4].tobytes(), "little")
    counts = flat[4:begin].reshape(-1, _COUNTS)
    lengths = (counts[:, 0].astype(int) * (id_bits + 1) + 7) // 8 + counts[:, 1]
    if begin + lengths.sum() != len(flat):
        raise ValueError(f"records of {len(flat)} bytes, expected {begin + lengths.sum()}")
    rows = np.zeros((len(counts), _COUNTS + lengths.max()), dtype=np.uint8)
    rows[:, :_COUNTS] = counts
    rows[:, _COUNTS:][np.arange(lengths.max()) < lengths[:, None]] = flat[begin:]
    return torch.from_numpy(rows)


def _order_bytes(counts: Int[Tensor, " tokens"], id_bits: int) -> Int[Tensor, " tokens"]:
    return (counts * (id_bits + 1) + 7) // 8
