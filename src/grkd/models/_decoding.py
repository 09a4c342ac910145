"""New tokens by transformers' `generate`: over a growing cache, or a static one (compiled on a GPU).

Both leave the model's mode, its generation config and the random state of the CPU and its device as they were.
"""

import gc
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, StaticCache

from grkd.data.language import left_padded
from grkd.errors import UserError
from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.load import quiet
from grkd.models.seeded_draws import SeededDraws

# One static cache a model, kept for the next batch: a CUDA graph is bound to the addresses that it was recorded with.
_static_caches: WeakKeyDictionary[PreTrainedModel, tuple[tuple[object, ...], StaticCache]] = WeakKeyDictionary()


def check_call(prompts: Sequence[list[int]], *, max_new_tokens: int, batch_size: int | None) -> None:
    """Raises UserError for numbers out of range, ValueError for an empty prompt."""
    for name, number in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be 1 or more, got {number}")
    if not all(prompts):
        raise ValueError("a prompt must have at least one token")


def longest_first(prompts: Sequence[list[int]], rows: int) -> list[list[int]]:
    """Numbers of the prompts, `rows` at a time: a lack of memory shows at once."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def end_of(tokens: list[int], stop_ids: Sequence[int]) -> int | None:
    """The place behind the first stop token; None without one."""
    return next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), None)


def generation_config(*, max_new_tokens: int, stop_ids: Sequence[int], pad_token_id: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # SeededDraws draws, and leaves one token to choose
        eos_token_id=list(stop_ids) or None,
        pad_token_id=pad_token_id,
        use_cache=True,  # a model that trains with gradient checkpointing has it off in its config
    )


@torch.no_grad()
def new_tokens(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch longest"],
    attention_mask: Int[Tensor, "batch longest"],
    config: GenerationConfig,
    draws: SeededDraws,
    *,
    teacher: nn.Module | None = None,
    **more: Any,
) -> Int[Tensor, "batch new"]:
    """New tokens of each prompt, with what transformers writes behind the stop token. teacher: that `draws` calls."""
    own = model.generation_config
    # Fields that are not set here would otherwise be taken from the model's (a top_k, a repetition penalty).
    model.generation_config = config
    try:
        with evaluation_mode(model, teacher), quiet():
            tokens: Tensor = model.generate(
                input_ids, attention_mask=attention_mask, generation_config=config, logits_processor=[draws], **more
            )
    finally:
        model.generation_config = own
    return tokens[:, input_ids.shape[-1] :]


def growing_cache(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, draws: SeededDraws, **more: Any
) -> list[list[int]]:
    """New tokens of each prompt as one padded batch."""
    ids, mask = left_padded(prompts, pad_token_id=config.pad_token_id, device=model.device)
    return new_tokens(model, ids, mask, config, draws, **more).tolist()


def static_cache(
    model: PreTrainedModel,
    prompts: list[list[int]],
    config: GenerationConfig,
    draws: SeededDraws,
    *,
    rows: int,
    room: int,
) -> list[list[int]]:
    """The same with a cache of `rows` rows and `room` tokens each, so that every batch has the shapes of one graph.

    On a GPU transformers compiles the step of one token; on a CPU it does not. A smaller batch is filled up with copies
    of its last prompt, whose tokens are dropped.
    """
    key = (rows, room, model.device, model.dtype)
    found, cache = _static_caches.get(model, (None, None))
    if cache is None or found != key:
        cache = StaticCache(config=model.config, max_cache_len=room)
        _static_caches[model] = (key, cache)
    cache.reset()
    missing = rows - len(prompts)
    draws.seeds = torch.cat([draws.seeds, draws.seeds[-1:].expand(missing)])
    filled = prompts + prompts[-1:] * missing
    return growing_cache(model, filled, config, draws, past_key_values=cache)[: len(prompts)]


def free_memory() -> None:
    """Give back what was kept for the next batch: static caches, compiled steps and their CUDA graphs."""
    if not _static_caches:
        return
    _static_caches.clear()
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
