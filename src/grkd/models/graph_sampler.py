"""Sampling by a decode step over a static cache: on a GPU one CUDA graph, with rows refilled as they finish."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakSet

import torch
from transformers import PreTrainedModel

from grkd.models._decoding_rows import DecodingRows
from grkd.models._decoding_rows import Draw as Draw
from grkd.models._decoding_rows import NotSupportedError as NotSupportedError
from grkd.models._decoding_rows import Response as Response
from grkd.models.decoder_step import DecoderStep, unsupported

_SLOT_STEP = 128  # caches grow in such steps, so that few graphs are recorded
_MOST_ROWS = 1024
_ROWS_ON_CPU = 16
# Buffers of up to so many times the rows that a call wants serve it: idle rows cost it less than recording again, where
# the number of prompts that a student answers changes from step to step.
_SPARE = 8
_FREE_SHARE = 0.7  # of the free memory, for the rows' buffers
_SMALL_SHARE = 0.1  # of the GPU's memory: buffers that stay between the steps of a training whatever these need
_BESIDE_SHARE = 0.8  # of the memory that this process can have: what a training and larger buffers may take together


@dataclass
class _Kept:
    """The buffers of a model; bound: they are as many rows as the memory held; stayed: over a step of a training."""

    rows: DecodingRows
    bound: bool
    stayed: bool = False

    def is_of(self, model: PreTrainedModel, dtype: torch.dtype) -> bool:
        """Whether they decode with the model's parameters as they are now, in this dtype."""
        return self.rows.step.dtype == dtype and self.rows.step.belongs_to(model)

    def has_room(self, wanted: int, needed: int) -> bool:
        """Whether `wanted` rows of `needed` tokens fit, without far more rows than that."""
        enough = wanted <= self.rows.rows or self.bound
        too_many = self.rows.rows > _SPARE * _rounded(wanted)
        return enough and not too_many and needed <= self.rows.cache.slots


# Kept for the next call: a graph is bound to the addresses of its cache. Models that failed the check, with the reason.
_kept: WeakKeyDictionary[PreTrainedModel, _Kept] = WeakKeyDictionary()
_refused: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
_in_training: WeakSet[PreTrainedModel] = WeakSet()  # models that `make_room_for_training` has seen


def reason_against(model: PreTrainedModel) -> str | None:
    """Why `sample` cannot take this model, as far as is known before it is tried; None if it can."""
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
) -> Iterator[list[Response]]:
    """One response per prompt, some at a time as they finish; prompts are taken longest first.

    seeds: one per prompt, below 2^63. A response depends on its own seed and prompt alone, up to rounding.
    batch_size: rows decoded at a time; None: as many as the free memory holds (16 on a CPU). A finished row takes the
    next prompt. room: tokens of prompt and response that the cache must hold; by default enough for these prompts.
    Buffers and the recorded graph are kept for the next call and used again where they are large enough. Parameters are
    read where they lie, so they may change between calls; those of another dtype than the computation's, which is
    autocast's if it is on, are copied at the start of each call. free_memory() gives all of it back.
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


def make_room_for_training(model: PreTrainedModel) -> None:
    """After sampling between two steps of a training: give this model's buffers back unless they may stay."""
    if (kept := _kept.get(model)) is None or model.device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(model.device)
    kept.stayed = may_stay(
        kept.rows.bytes,
        total=total,
        available=free + torch.cuda.memory_reserved(model.device),
        peak=torch.cuda.max_memory_allocated(model.device) if model in _in_training else None,
        stayed=kept.stayed,
    )
    _in_training.add(model)
    if not kept.stayed:
        del kept, _kept[model]
        torch.cuda.empty_cache()


def may_stay(size: int, *, total: int, available: int, peak: int | None, stayed: bool) -> bool:
    """Whether buffers of `size` bytes stay on the GPU during the next training step; recording them takes seconds.

    Small ones always do, others where they and what the training took so far leave a share of the memory free.
    total: memory of the GPU. available: of it, what this process holds or could have. peak: the most that this process
    has allocated, over at least one training step; None before the first. stayed: the buffers are part of that peak.
    """
    if size <= _SMALL_SHARE * total:
        return True
    return peak is not None and peak + (0 if stayed else size) <= _BESIDE_SHARE * available


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
    if kept is not None and kept.is_of(model, dtype):
        if kept.has_room(wanted, needed):
            return kept.rows
        slots = max(slots, kept.rows.cache.slots)
    kept = None
    _kept.pop(model, None)  # with `kept` gone, too, its memory is free for new ones
    step = DecoderStep(model, dtype=dtype)
    size = _rounded(wanted) if batch_size is None else min(_rounded(wanted), batch_size)
    held = _rows_that_fit(step, slots) if on_gpu and batch_size is None else size
    _kept[model] = _Kept(DecodingRows(step, rows=min(size, held), slots=slots), bound=held < size)
    return _kept[model].rows


def _rounded(rows: int) -> int:
    """The next power of two, or multiple of 64 above 64: few shapes are recorded."""
    return -(-rows // 64) * 64 if rows > 64 else 1 << (rows - 1).bit_length()


def _rows_that_fit(step: DecoderStep, slots: int) -> int:
    """Rows whose buffers take a share of the GPU memory that is free."""
    free, _ = torch.cuda.mem_get_info(step.device)
    free += torch.cuda.memory_reserved(step.device) - torch.cuda.memory_allocated(step.device)
    return max(1, int(_FREE_SHARE * free) // step.row_bytes(slots))
