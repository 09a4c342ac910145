"""Flex attention over rows of several sequences: the mask in blocks, from where sequences begin alone."""

import functools
import itertools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, no_type_check

import torch
from torch import Tensor

from grkd.kernels._compiled import outside_graphs
from grkd.models._packed_row import PackedRow, sequences, tokens_behind

_BLOCK = 128
# Of the kernels for heads of 256 on Hopper in 16 bits, in place of PyTorch's own choice: LOG.md, 2026-11-29.
_WIDE = {
    "fwd_BLOCK_M": 128,
    "fwd_BLOCK_N": 32,
    "fwd_num_stages": 3,
    "fwd_num_warps": 8,
    "bwd_BLOCK_M1": 32,
    "bwd_BLOCK_N1": 64,
    "bwd_BLOCK_M2": 64,
    "bwd_BLOCK_N2": 32,
    "bwd_num_stages": 2,
    "bwd_num_warps": 8,
}
_numbers = itertools.count()


def flex(*, dynamic: bool | None = None, blocks: dict[str, int] | None = None) -> Callable[..., Tensor]:
    """dynamic: of torch.compile; None compiles again, for any length, at the second length.

    blocks: the kernels' block sizes; None: those measured as fast, if any, else PyTorch's choice; {}: PyTorch's choice.
    """
    from torch.nn.attention.flex_attention import flex_attention

    def plain(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        return flex_attention(query, key, value, **options)

    # Under a name of its own: what the compiler learnt of another model's heads is kept by a function's name.
    own = plain.__code__.replace(co_name=f"flex_{next(_numbers)}")
    compiled = torch.compile(types.FunctionType(own, globals(), own.co_name, None, plain.__closure__), dynamic=dynamic)

    @outside_graphs  # it is compiled by itself, and keeps masks between the layers of a model
    def attend(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        chosen = _blocks(query.shape[-1], query.dtype, query.device) if blocks is None else blocks
        out: Tensor = (compiled if query.is_cuda else plain)(
            query,
            key,
            value,
            score_mod=None if row.softcap is None else _cap(row.softcap),
            block_mask=_kept_mask(row, query.shape[2], key.shape[2]),
            scale=row.scale,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=chosen or None,
        )
        return out.transpose(1, 2)

    return attend


def _blocks(width: int, dtype: torch.dtype, device: torch.device) -> dict[str, int] | None:
    wide = device.type == "cuda" and width == 256 and dtype.itemsize == 2
    return _WIDE if wide and torch.cuda.get_device_capability(device) == (9, 0) else None


@functools.lru_cache(maxsize=8)
def _cap(softcap: float) -> Callable[..., Tensor]:
    """softcap * tanh(score / softcap), by the logistic function: a GPU's tanh costs a quarter of the backward pass."""

    @no_type_check  # a compiler traces it
    def capped(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return softcap * (2.0 * torch.sigmoid(score * (2.0 / softcap)) - 1.0)

    return capped


_masks: OrderedDict[tuple[int, int, int | None], tuple[Tensor, Any]] = OrderedDict()


def _kept_mask(row: PackedRow, tokens: int, keys: int) -> Any:
    """The mask of a batch, made once for all layers and for the backward pass's second look."""
    known = row.starts_of_keys  # a tensor of this batch alone
    key = (id(known), tokens, row.window)
    if key not in _masks or _masks[key][0] is not known:
        if row.key_starts is None:
            made = block_mask(row.starts, tokens, row.window)
        else:
            made = shared_block_mask(row.starts, tokens, row.key_starts, keys, row.window)
        _masks[key] = (known, made)
        while len(_masks) > 4:
            _masks.popitem(last=False)
    return _masks[key][1]


def block_mask(starts: Tensor, tokens: int, window: int | None) -> Any:
    """The mask of flex attention, from the blocks' ends alone: no [tokens, tokens] tensor. tokens: a multiple of 128.

    A block of keys is looked at where it holds a key that a query of the block of queries may see; it is full where
    every query may see every key.
    """
    from torch.nn.attention.flex_attention import BlockMask

    of = sequences(starts, tokens)
    first, last = of[::_BLOCK], of[_BLOCK - 1 :: _BLOCK]  # of each block
    place = torch.arange(len(first), device=of.device)
    apart = place[:, None] - place
    some = (apart >= 0) & (first[:, None] <= last)
    every = (apart > 0) & (first == last[:, None]) & (first == last)
    if window is not None:
        some &= (apart - 1) * _BLOCK + 1 < window
        every &= (apart + 1) * _BLOCK - 1 < window
    some &= ~every

    @no_type_check  # a compiler traces it
    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        allowed = (of[query] == of[key]) & (query >= key)
        return allowed if window is None else allowed & (query - key < window)

    (count, index), (full_count, full_index) = _listed(some), _listed(every)
    return BlockMask.from_kv_blocks(count, index, full_count, full_index, BLOCK_SIZE=_BLOCK, mask_mod=seen)


def shared_block_mask(starts: Tensor, tokens: int, key_starts: Tensor, keys: int, window: int | None) -> Any:
    """The mask where a sequence has more keys than queries; keys behind the last sequence's are seen by nobody.

    tokens, keys: multiples of 128. Blocks of several sequences are looked at where they may have one in common.
    """
    from torch.nn.attention.flex_attention import BlockMask

    of, behind = sequences(starts, tokens), tokens_behind(starts, tokens)
    of_keys, behind_keys = sequences(key_starts, keys), tokens_behind(key_starts, keys)
    first, last, first_key, last_key = (
        of[::_BLOCK],
        of[_BLOCK - 1 :: _BLOCK],
        of_keys[::_BLOCK],
        of_keys[_BLOCK - 1 :: _BLOCK],
    )
    one = (first == last)[:, None] & (first_key == last_key) & (first[:, None] == first_key)
    nearest = behind_keys[_BLOCK - 1 :: _BLOCK] - behind[::_BLOCK, None]  # last key of a block, first query
    farthest = behind_keys[::_BLOCK] - behind[_BLOCK - 1 :: _BLOCK, None]
    some = (first[:, None] <= last_key) & (first_key <= last[:, None]) & ~(one & (farthest < 0))
    every = one & (nearest >= 0)
    if window is not None:
        some &= ~(one & (nearest >= window))
        every &= farthest < window
    some &= ~every

    @no_type_check  # a compiler traces it
    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        apart = behind_keys[key] - behind[query]
        allowed = (of[query] == of_keys[key]) & (apart >= 0)
        return allowed if window is None else allowed & (apart < window)

    (count, index), (full_count, full_index) = _listed(some), _listed(every)
    return BlockMask.from_kv_blocks(
        count, index, full_count, full_index, BLOCK_SIZE=_BLOCK, mask_mod=seen, seq_lengths=(tokens, keys)
    )


def _listed(which: Tensor) -> tuple[Tensor, Tensor]:
    """Of each block of queries the number of the blocks of keys that are marked, and those blocks, first."""
    order = which.int().argsort(dim=-1, descending=True, stable=True)
    return which.sum(-1).int()[None, None], order.int()[None, None]
