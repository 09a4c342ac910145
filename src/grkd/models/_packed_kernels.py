"""Kernels of attention over rows of several sequences: cuDNN's, PyTorch's variable-length one, flash-attn's, flex.

Every one: query [1, heads, T, width], key, value [1, heads, K, width] -> [1, T, heads, width], with starts int32 (where
sequences begin, and the last end), longest (of a sequence's keys, at most), scale, softcap (None: none) and window
(tokens that are seen, one's own among them; None: all before). K is T; a kernel that `shares` also takes key_starts:
where the keys of each sequence begin. They end with those of its own tokens, and the last query sees the last key.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grkd.models._packed_flex import flex, sequences, tokens_behind

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
    of, of_keys = sequences(starts, query.shape[2]), sequences(key_starts, key.shape[2])
    apart = tokens_behind(key_starts, key.shape[2]) - tokens_behind(starts, query.shape[2])[:, None]
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
        if key_starts is not None:
            key, value = _held(key, key_starts), _held(value, key_starts)
        out = varlen_attn(query, key, value, starts, ends, longest, longest, **options)
        assert isinstance(out, Tensor)
        return out.unsqueeze(0)

    return attend


def _held(keys: Tensor, starts: Tensor) -> Tensor:
    """Keys or values [K, heads, width] with no gradient behind the last sequence.

    Kernels of variable lengths write no gradient there: what the memory held, NaN at times, would reach a token's.
    """
    behind = torch.arange(len(keys), device=keys.device) >= starts[-1]
    return keys.masked_fill(behind[:, None, None], 0.0)


def _cudnn() -> Attend:
    from grkd.models import _packed_cudnn

    if torch.cuda.get_device_capability() < (9, 0):
        raise NotImplementedError("before Hopper cuDNN knows no sequences that lie one after the other")

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
        if key_starts is not None:
            key, value = _held(key, key_starts), _held(value, key_starts)
        options: dict[str, Any] = {"longest": longest, "scale": scale, "window": window}
        return _packed_cudnn.attend(query, key, value, starts=starts, key_starts=key_starts, **options).unsqueeze(0)

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
        if key_starts is not None:
            key, value = _held(key, key_starts), _held(value, key_starts)
        out: Tensor = flash_attn_varlen_func(query, key, value, starts, ends, longest, longest, **options)
        return out.unsqueeze(0)

    return attend


# In the order in which they are tried: the fastest first.
_FLEX = "torch.nn.attention.flex_attention"
_SMALL = {f"BLOCK_{side}": 32 for side in ("M", "N", "M1", "N1", "M2", "N2")} | {"num_stages": 1, "num_warps": 4}
KERNELS = {
    "cudnn": Kernel(package="cudnn", caps=False, load=_cudnn, shares=True, least=2048),
    "varlen": Kernel(package="torch.nn.attention.varlen", caps=False, load=_varlen, shares=True),
    "flash_attn": Kernel(package="flash_attn", caps=True, load=_flash_attn, shares=True),
    "flex": Kernel(package=_FLEX, caps=True, load=flex, shares=True),
    "flex-small-blocks": Kernel(package=_FLEX, caps=True, load=functools.partial(flex, blocks=_SMALL), shares=True),
    "flex-fixed-lengths": Kernel(package=_FLEX, caps=True, load=functools.partial(flex, dynamic=False), shares=True),
}
