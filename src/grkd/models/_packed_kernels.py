"""Kernels of attention over rows of several sequences: PyTorch's variable-length one, flash-attn's, flex attention.

Every one: query [1, heads, T, width], key, value [1, heads, K, width] -> [1, T, heads, width], with starts int32 (where
sequences begin, and the last end), longest (of a sequence's keys, at most), scale, softcap (None: none) and window
(tokens that are seen, one's own among them; None: all before). K is T; a kernel that `shares` also takes key_starts:
where the keys of each sequence begin. They end with those of its own tokens, and the last query sees the last key.
"""

import functools
import inspect
import itertools
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from torch import Tensor

from grkd.kernels._compiled import outside_graphs

Attend = Callable[..., Tensor]
_BLOCK = 128
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """package: that it comes with. caps: whether it knows a soft cap of scores. load: imports it.

    shares: whether a sequence may have more keys than queries.
    """

    package: str
    caps: bool
    load: Callable[[], Attend]
    shares: bool = False


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    starts: Tensor,
    longest: int,
    scale: float,
    softcap: float | None,
    window: int | None,
    key_starts: Tensor | None = None,
) -> Tensor:
    """softmax(cap(q k^T scale) + mask) v, written out; memory by the square of the row."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    key_starts = starts if key_starts is None else key_starts
    of, of_keys = _sequences(starts, query.shape[2]), _sequences(key_starts, key.shape[2])
    # Of queries and keys, how many tokens of their sequence come behind them.
    behind = starts[1:][of] - torch.arange(query.shape[2], device=query.device)
    behind_keys = key_starts[1:][of_keys] - torch.arange(key.shape[2], device=query.device)
    apart = behind_keys - behind[:, None]
    seen = (of[:, None] == of_keys) & (apart >= 0)
    if window is not None:
        seen &= apart < window
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def _varlen() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    windows, scales, shares = ("window_size" in known), ("scale" in known), ("enable_gqa" in known)

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        starts: Tensor,
        longest: int,
        scale: float,
        softcap: float | None,
        window: int | None,
        key_starts: Tensor | None = None,
    ) -> Tensor:
        options: dict[str, Any] = {}
        if windows:
            options["window_size"] = (-1 if window is None else window - 1, 0)
        elif window is None:
            options["is_causal"] = True
        else:
            raise NotImplementedError("no windows in this version of PyTorch")
        if scales:
            options["scale"] = scale
        else:
            query = query * (scale * query.shape[-1] ** 0.5)
        if query.shape[1] != key.shape[1]:
            if shares:
                options["enable_gqa"] = True
            else:
                repeat = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        ends = starts if key_starts is None else key_starts
        out = varlen_attn(query, key, value, starts, ends, longest, longest, **options)
        assert isinstance(out, Tensor)
        return out.unsqueeze(0)

    return attend


def _flash_attn() -> Attend:
    from flash_attn import flash_attn_varlen_func

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        starts: Tensor,
        longest: int,
        scale: float,
        softcap: float | None,
        window: int | None,
        key_starts: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        seen = (-1, -1) if window is None else (window - 1, 0)
        options = {"softmax_scale": scale, "causal": True, "window_size": seen, "softcap": softcap or 0.0}
        ends = starts if key_starts is None else key_starts
        out: Tensor = flash_attn_varlen_func(query, key, value, starts, ends, longest, longest, **options)
        return out.unsqueeze(0)

    return attend


def _flex(*, dynamic: bool | None = None, blocks: dict[str, int] | None = None) -> Attend:
    """dynamic: of torch.compile; None compiles anew, for any length, at the second length. blocks: of the kernels."""
    from torch.nn.attention.flex_attention import flex_attention

    def plain(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        return flex_attention(query, key, value, **options)

    # Under a name of its own: what the compiler learnt of another model's heads is kept by a function's name.
    own = plain.__code__.replace(co_name=f"flex_{next(_numbers)}")
    compiled = torch.compile(types.FunctionType(own, globals(), own.co_name, None, plain.__closure__), dynamic=dynamic)

    @outside_graphs  # it is compiled by itself, and keeps masks between the layers of a model
    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        starts: Tensor,
        longest: int,
        scale: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        out: Tensor = (compiled if query.is_cuda else plain)(
            query,
            key,
            value,
            score_mod=None if softcap is None else _cap(softcap),
            block_mask=_kept_mask(starts, query.shape[2], window),
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=blocks,
        )
        return out.transpose(1, 2)

    return attend


@functools.lru_cache(maxsize=8)
def _cap(softcap: float) -> Callable[..., Tensor]:
    @no_type_check  # a compiler traces it
    def capped(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return softcap * torch.tanh(score / softcap)

    return capped


_masks: OrderedDict[tuple[int, int, int | None], tuple[Tensor, Any]] = OrderedDict()


def _kept_mask(starts: Tensor, tokens: int, window: int | None) -> Any:
    """The mask of a batch, made once for all layers and for the backward pass's second look."""
    key = (id(starts), tokens, window)
    if key not in _masks or _masks[key][0] is not starts:
        _masks[key] = (starts, block_mask(starts, tokens, window))
        while len(_masks) > 4:
            _masks.popitem(last=False)
    return _masks[key][1]


def block_mask(starts: Tensor, tokens: int, window: int | None) -> Any:
    """The mask of flex attention, from the blocks' ends alone: no [tokens, tokens] tensor. tokens: a multiple of 128.

    A block of keys is looked at where it holds a key that a query of the block of queries may see; it is full where
    every query may see every key.
    """
    from torch.nn.attention.flex_attention import BlockMask

    of = _sequences(starts, tokens)
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


def _listed(which: Tensor) -> tuple[Tensor, Tensor]:
    """Of each block of queries the number of the blocks of keys that are marked, and those blocks, first."""
    order = which.int().argsort(dim=-1, descending=True, stable=True)
    return which.sum(-1).int()[None, None], order.int()[None, None]


def _sequences(starts: Tensor, tokens: int) -> Tensor:
    """The number of the sequence that each token belongs to, [tokens]."""
    return torch.bucketize(torch.arange(tokens, device=starts.device, dtype=starts.dtype), starts[1:], right=True)


# In the order in which they are tried: the fastest first.
_FLEX = "torch.nn.attention.flex_attention"
_SMALL = {f"BLOCK_{side}": 32 for side in ("M", "N", "M1", "N1", "M2", "N2")} | {"num_stages": 1, "num_warps": 4}
KERNELS = {
    "varlen": Kernel(package="torch.nn.attention.varlen", caps=False, load=_varlen, shares=True),
    "flash_attn": Kernel(package="flash_attn", caps=True, load=_flash_attn, shares=True),
    "flex": Kernel(package=_FLEX, caps=True, load=_flex),
    "flex-small-blocks": Kernel(package=_FLEX, caps=True, load=functools.partial(_flex, blocks=_SMALL)),
    "flex-fixed-lengths": Kernel(package=_FLEX, caps=True, load=functools.partial(_flex, dynamic=False)),
}
