"""Kernels of attention over rows of several sequences: cuDNN's, PyTorch's variable-length one, flash-attn's, flex.

Every one: attend(query [1, heads, T, width], key, value [1, heads, K, width], row) -> [1, T, heads, width]. K is T; a
kernel that `shares` also takes rows with key_starts.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grkd.models._packed_flex import flex
from grkd.models._packed_row import PackedRow, sequences, tokens_behind

Attend = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """package: that it comes with. caps: whether it knows a soft cap of scores. load: imports it.

    shares: whether a sequence may have more keys than queries. least: heads x width of queries from which it pays: its
    calls cost the host more.
    """

    package: str
    caps: bool
    load: Callable[[], Attend]
    shares: bool = False
    least: int = 0


def reference(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
    """softmax(cap(q k^T scale) + mask) v, written out; memory by the square of the row."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT * row.scale
    if row.softcap is not None:
        scores = row.softcap * torch.tanh(scores / row.softcap)
    starts, key_starts = row.starts, row.starts_of_keys
    of, of_keys = sequences(starts, query.shape[2]), sequences(key_starts, key.shape[2])
    apart = tokens_behind(key_starts, key.shape[2]) - tokens_behind(starts, query.shape[2])[:, None]
    seen = (of[:, None] == of_keys) & (apart >= 0)
    if row.window is not None:
        seen &= apart < row.window
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def _token_by_token(kernel: Attend) -> Attend:
    """Calls a kernel whose query, key, value and output are [tokens, heads, width].

    Such kernels write no gradient of keys behind the last sequence: what the memory held, NaN at times, would reach a
    token's. So those keys get none.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        if row.key_starts is not None:
            behind = torch.arange(len(key), device=key.device) >= row.key_starts[-1]
            key, value = (tensor.masked_fill(behind[:, None, None], 0.0) for tensor in (key, value))
        return kernel(query, key, value, row).unsqueeze(0)

    return attend


def _varlen() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    windows, scales, groups = ("window_size" in known), ("scale" in known), ("enable_gqa" in known)

    def kernel(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        options: dict[str, Any] = {}
        if windows:
            options["window_size"] = (-1 if row.window is None else row.window - 1, 0)
        elif row.window is None:
            options["is_causal"] = True
        else:
            raise NotImplementedError("no windows in this version of PyTorch")
        if scales:
            options["scale"] = row.scale
        else:
            query = query * (row.scale * query.shape[-1] ** 0.5)
        if query.shape[1] != key.shape[1]:
            if groups:
                options["enable_gqa"] = True
            else:
                repeat = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        out = varlen_attn(query, key, value, row.starts, row.starts_of_keys, row.longest, row.longest, **options)
        assert isinstance(out, Tensor)
        return out

    return _token_by_token(kernel)


def _cudnn() -> Attend:
    from grkd.models import _packed_cudnn

    if torch.cuda.get_device_capability() < (9, 0):
        raise NotImplementedError("before Hopper cuDNN knows no sequences that lie one after the other")
    return _token_by_token(_packed_cudnn.attend)


def _flash_attn() -> Attend:
    from flash_attn import flash_attn_varlen_func

    def kernel(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        window = (-1, -1) if row.window is None else (row.window - 1, 0)
        options = {"softmax_scale": row.scale, "causal": True, "window_size": window, "softcap": row.softcap or 0.0}
        out: Tensor = flash_attn_varlen_func(
            query, key, value, row.starts, row.starts_of_keys, row.longest, row.longest, **options
        )
        return out

    return _token_by_token(kernel)


# In the order in which they are tried: the fastest first.
_FLEX = "torch.nn.attention.flex_attention"
_SMALL = {f"BLOCK_{side}": 32 for side in ("M", "N", "M1", "N1", "M2", "N2")} | {"num_stages": 1, "num_warps": 4}
KERNELS = {
    "cudnn": Kernel(package="cudnn", caps=False, load=_cudnn, shares=True, least=2048),
    "varlen": Kernel(package="torch.nn.attention.varlen", caps=False, load=_varlen, shares=True),
    "flash_attn": Kernel(package="flash_attn", caps=True, load=_flash_attn, shares=True),
    "flex": Kernel(package=_FLEX, caps=True, load=flex, shares=True),
    "flex-default-blocks": Kernel(package=_FLEX, caps=True, load=functools.partial(flex, blocks={}), shares=True),
    "flex-small-blocks": Kernel(package=_FLEX, caps=True, load=functools.partial(flex, blocks=_SMALL), shares=True),
    "flex-fixed-lengths": Kernel(package=_FLEX, caps=True, load=functools.partial(flex, dynamic=False), shares=True),
}
