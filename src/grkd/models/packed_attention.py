"""Attention over rows of several sequences: which kernel a model takes on its device, tested before it is used.

transformers looks an attention up by its name (AttentionInterface). Ours reads from arguments of the model's forward
where sequences begin; a call without them (generation, padded batches) goes to the attention that the model had.
"""

import functools
import importlib.util
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from grkd.console import console
from grkd.data.packed import PACKED_ATTENTION, SHARING_ATTENTION, attention_of
from grkd.models._packed_kernels import KERNELS, Attend, Kernel, reference
from grkd.models._packed_row import PackedRow

# Of the sequences that a kernel is tested on: two rows of different lengths, which is what some compile anew for.
_LENGTHS = ((70, 1, 157), (200, 50, 130))
_numbers = itertools.count()
_TOLERANCE = 0.03  # of 16-bit outputs and gradients, relative to the largest


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """What a kernel must do for a model: queries, keys and their width, the scores' scale and soft cap, windows."""

    queries: int
    keys: int
    width: int
    scale: float
    softcap: float | None
    window: int | None

    @classmethod
    def of(cls, model: Any) -> "_Heads":
        config = model.config.get_text_config(decoder=True)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        wide = getattr(config, "query_pre_attn_scalar", None) or width
        windowed = getattr(config, "use_sliding_window", True)
        return cls(
            queries=config.num_attention_heads,
            keys=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            width=width,
            scale=float(wide) ** -0.5,
            softcap=getattr(config, "attn_logit_softcapping", None),
            window=(getattr(config, "sliding_window", None) or None) if windowed else None,
        )


def take_packed_attention(model: Any, *, device: torch.device, dtype: torch.dtype, share: bool = True) -> str | None:
    """Have the model, in place, attend within the sequences of a packed row; the kernel's name, None if none can.

    dtype: in which its attention runs (autocast's, if it is on). share: whether rows will share prompts, which is
    tested too (for some kernels half a minute of compiling). On a CPU, and in more than 16 bits, the model's own
    attention stays: transformers makes it a mask of blocks, which costs time and memory by the square of the row. On
    a GPU in 16 bits the first kernel that the machine has and that gives the numbers of plain attention is taken.
    """
    current = attention_of(model)
    if current.startswith(PACKED_ATTENTION):
        return current.removeprefix(SHARING_ATTENTION).removeprefix(PACKED_ATTENTION).split("_over_")[0]
    if device.type != "cuda":
        return "mask of blocks"
    trained = any(each.requires_grad for each in model.parameters())
    if reason := _unfit(model.config.get_text_config(decoder=True), dtype, trained):
        console.print(f"packed rows: no kernel {reason}; batches are padded", soft_wrap=True)
        return None
    heads = _Heads.of(model)
    for name, kernel in KERNELS.items():
        if not _may_serve(kernel, heads):
            continue
        attend, reason = _tested(name, heads, device, dtype, trained)
        if attend is None:
            console.print(f"packed rows: not by {name} ({reason})", soft_wrap=True)
            continue
        shares = share and kernel.shares
        if shares:
            sharing, reason = _tested(name, heads, device, dtype, trained, shared=True)
            shares = sharing is not None
            if not shares:
                console.print(f"packed rows: prompts are not shared by {name} ({reason})", soft_wrap=True)
        model.set_attn_implementation(registered(name, attend, before=current, shares=shares))
        return name
    console.print("packed rows: no kernel for this model here; batches are padded")
    return None


def _may_serve(kernel: Kernel, heads: _Heads) -> bool:
    """Whether a kernel is installed, and made for such heads."""
    installed = importlib.util.find_spec(kernel.package) is not None
    large_enough = heads.queries * heads.width >= kernel.least
    return installed and large_enough and (kernel.caps or heads.softcap is None)


@functools.cache  # the next model with such heads takes the same function, with all that was compiled for it
def _tested(
    name: str, heads: _Heads, device: torch.device, dtype: torch.dtype, trained: bool, shared: bool = False
) -> tuple[Attend | None, str]:
    """A kernel that gives the numbers of plain attention; None if it does not, and why. shared: with shared keys."""
    try:
        attend = KERNELS[name].load()
        difference = attention_difference(attend, heads, device=device, dtype=dtype, backward=trained, shared=shared)
    except Exception as error:  # compilers and kernels raise anything
        return None, f"it fails here: {' '.join(str(error).split())[:160]}"
    if difference <= _TOLERANCE:
        return attend, ""
    return None, f"its numbers are off by {difference:.2g}"


def _unfit(config: Any, dtype: torch.dtype, trained: bool) -> str:
    """Why no kernel can serve a model of this config; empty where one may."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"in {str(dtype).removeprefix('torch.')}"
    dropout: float = getattr(config, "attention_dropout", 0.0) or 0.0
    if trained and dropout:
        return "knows the dropout of attention scores"
    return "" if hasattr(config, "num_attention_heads") else f"is known for a {config.model_type} model"


def attention_difference(
    attend: Attend,
    heads: _Heads,
    *,
    device: torch.device,
    dtype: torch.dtype,
    backward: bool = True,
    shared: bool = False,
) -> float:
    """Largest difference of outputs and gradients to plain attention in float32, relative to the largest of each.

    shared: every sequence has 45 keys more than queries, as where it goes on from a prompt that lies elsewhere.
    """
    window = None if heads.window is None else min(heads.window, 33)
    differences = []
    for number, lengths in enumerate(_LENGTHS):
        generator = torch.Generator(device).manual_seed(number)
        total = -(-sum(lengths) // 128) * 128
        ends = list(accumulate((*lengths, total - sum(lengths), 0), initial=0))  # as batches have, an empty one behind
        starts = torch.tensor(ends, dtype=torch.int32, device=device)
        key_starts = None
        shapes = [(1, count, total, heads.width) for count in (heads.queries, heads.keys, heads.keys)]
        if shared:
            more = 45 * torch.arange(len(ends), dtype=torch.int32, device=device).clamp_max(len(ends) - 2)
            key_starts = starts + more
            many = -(-int(key_starts[-1]) // 128) * 128
            shapes[1:] = [(1, heads.keys, many, heads.width)] * 2
        given = [torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_() for shape in shapes]
        exact = [tensor.detach().float().requires_grad_() for tensor in given]
        row = PackedRow(starts, total + 45 * shared, heads.scale, heads.softcap, window, key_starts)
        for tensor in given:  # memory that a kernel takes and leaves unwritten must be seen
            torch.full((4, *tensor.shape), math.nan, device=device, dtype=dtype)
        with torch.autocast(device.type, enabled=False):
            pairs = zip(_outputs(attend, given, row, backward), _outputs(reference, exact, row, backward), strict=True)
            differences += [float((one.float() - other).abs().max() / other.abs().max()) for one, other in pairs]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf  # max() may pass over a NaN


def _outputs(attend: Attend, inputs: list[Tensor], row: PackedRow, backward: bool) -> list[Tensor]:
    """What an attention gives, and the gradients of a weighted sum of it."""
    if not backward:
        with torch.no_grad():
            return [attend(*(tensor.detach() for tensor in inputs), row)]
    out = attend(*inputs, row)
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


@functools.cache
def registered(name: str, attend: Attend, *, before: str, shares: bool = False) -> str:
    """The name under which transformers finds this attention from now on, over the one that the model had.

    shares: it takes batches whose prompts are shared.
    """
    full = f"{SHARING_ATTENTION if shares else PACKED_ATTENTION}{name}_over_{before}_{next(_numbers)}"
    AttentionInterface.register(full, _attention(attend, before))
    AttentionMaskInterface.register(full, ALL_MASK_ATTENTION_FUNCTIONS[before])
    return full


def _attention(attend: Attend, before: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int = 0,
        cu_seq_lens_k: Tensor | None = None,
        key_places: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if cu_seq_lens_q is None:
            caps = {} if softcap is None else {"softcap": softcap}
            return _plain(module, before)(
                module,
                query,
                key,
                value,
                attention_mask,
                scaling=scaling,
                sliding_window=sliding_window,
                **caps,
                **options,
            )
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
        if key_places is not None:  # a prompt's keys, for each of its responses
            key, value = key.index_select(2, key_places), value.index_select(2, key_places)
        row = PackedRow(
            starts=cu_seq_lens_q,
            longest=max_length_q,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            softcap=softcap,
            window=sliding_window if sliding_window is not None and sliding_window < max_length_q else None,
            key_starts=None if key_places is None else cu_seq_lens_k,
        )
        return attend(query.to(dtype), key.to(dtype), value.to(dtype), row), None

    return attention


def _plain(module: nn.Module, name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """An attention of transformers by name; "eager" is written in each model's own file."""
    if name == "eager":
        found: Callable[..., tuple[Tensor, Tensor | None]]
        found = sys.modules[type(module).__module__].eager_attention_forward
        return found
    return ALL_ATTENTION_FUNCTIONS[name]
