"""Sampling by a decode step over a static cache: on a GPU one CUDA graph, with rows refilled as they finish."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from grkd.models._decoding_rows import Answer as Answer
from grkd.models._decoding_rows import DecodingRows
from grkd.models._decoding_rows import Draw as Draw
from grkd.models._decoding_rows import NotSupportedError as NotSupportedError
from grkd.models.decoder_step import DecoderStep, unsupported

_SLOT_STEP = 128  # caches grow in such steps, so that few graphs are recorded
_MOST_ROWS = 1024
_ROWS_ON_CPU = 16
_FREE_SHARE = 0.7  # of the free memory, for the cache and the logits
_KEPT_SHARE = 0.1  # of the GPU's memory that is kept between the steps of a training


@dataclass
class _Kept:
    """The buffers of a model; bound: they are as many rows as the memory held."""

    rows: DecodingRows
    bound: bool


# Kept for the next call: a graph is bound to the addresses of its cache. Models that failed the check, with the reason.
_kept: WeakKeyDictionary[PreTrainedModel, _Kept] = WeakKeyDictionary()
_refused: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def reason_against(model: PreTrainedModel) -> str | None:
    """Why `sample` cannot take this model, as far as is known before it is tried; None where it can."""
    return _refused.get(model) or unsupported(model)


def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    draw: Draw,
    stop_ids: Sequence[int],
    batch_size: int | None = None,
    room: int | None = None,
) -> Iterator[list[Answer]]:
    """One response per prompt, some at a time as they finish; prompts are taken longest first.

    seeds: one per prompt, below 2^63. A response depends on its own seed and prompt alone, up to rounding.
    batch_size: rows decoded at a time; None: as many as the free memory holds (16 on a CPU). A finished row takes the
    next prompt. room: tokens of prompt and response that the cache must hold; by default enough for these prompts.
    Buffers and the recorded graph are kept for the next call and used again where they are large enough. Parameters are
    read where they lie, so they may change between calls; those of another dtype than the computation's, which is
    autocast's where it is on, are copied at the start of each call. free_memory() gives all of it back.
    Modes of the model are left as they were, and nothing is drawn from torch's random state.
    Raises NotSupportedError before the first response for a model that it does not know, or whose own logits one decode
    step does not give; RuntimeError where another call for this model begins in between.
    """
    if reason := reason_against(model):
        raise NotSupportedError(reason)
    if not prompts:
        return
    try:
        rows = _rows(model, prompts, max_new_tokens, batch_size, room)
        yield from rows.answers(
            model, prompts, seeds=seeds, max_new_tokens=max_new_tokens, draw=draw, stop_ids=stop_ids
        )
    except NotSupportedError as error:
        _refused[model] = str(error)
        _kept.pop(model, None)
        raise


def free_memory() -> None:
    """Give back the buffers and graphs that are kept for the next call."""
    if _kept:
        _kept.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def keep_little(model: PreTrainedModel) -> None:
    """Give back this model's buffers where they take more than a tenth of the GPU: for calls between training steps."""
    if model in _kept and model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
        if _kept[model].rows.bytes > _KEPT_SHARE * total:
            del _kept[model]
            torch.cuda.empty_cache()


def _rows(
    model: PreTrainedModel, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int | None, room: int | None
) -> DecodingRows:
    """The kept buffers where this call fits into them, else new ones, no smaller in slots."""
    on_gpu = model.device.type == "cuda"
    needed = max(map(len, prompts)) + max_new_tokens
    wanted = min(len(prompts), batch_size or (_MOST_ROWS if on_gpu else _ROWS_ON_CPU))
    dtype = torch.get_autocast_dtype(model.device.type) if torch.is_autocast_enabled(model.device.type) else model.dtype
    kept = _kept.get(model)
    slots = -(-max(needed, room or 0) // _SLOT_STEP) * _SLOT_STEP
    if kept is not None and kept.rows.step.dtype == dtype and kept.rows.step.belongs_to(model):
        slots = max(slots, kept.rows.cache.slots)
        fits = wanted <= kept.rows.rows or kept.bound
        if fits and kept.rows.rows <= 2 * _rounded(wanted) and needed <= kept.rows.cache.slots:
            return kept.rows
    kept = None
    _kept.pop(model, None)
    step = DecoderStep(model, dtype=dtype)
    size = _rounded(wanted) if batch_size is None else min(_rounded(wanted), batch_size)
    held = _rows_that_fit(step, slots) if on_gpu and batch_size is None else size
    _kept[model] = _Kept(DecodingRows(step, rows=min(size, held), slots=slots), bound=held < size)
    return _kept[model].rows


def _rounded(rows: int) -> int:
    """The next power of two, or multiple of 64 above 64: few shapes are recorded."""
    return -(-rows // 64) * 64 if rows > 64 else 1 << (rows - 1).bit_length()


def _rows_that_fit(step: DecoderStep, slots: int) -> int:
    """Rows whose cache and logits take a share of the GPU memory that is free."""
    free, _ = torch.cuda.mem_get_info(step.device)
    free += torch.cuda.memory_reserved(step.device) - torch.cuda.memory_allocated(step.device)
    return max(1, int(_FREE_SHARE * free) // (step.cache_bytes(slots) + step.head_size * 8 + slots * 12))
