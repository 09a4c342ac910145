"""New tokens by transformers' `generate`: over a growing cache, or a static one (compiled on a GPU).

Both leave the model's mode, its generation config and the random state of the CPU and its device as they were.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StaticCache

from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.load import quiet
from grkd.models.seeded_draws import SeededDraws

# One static cache a model, kept for the next batch: a CUDA graph is bound to the addresses that it was recorded with.
_static_caches: WeakKeyDictionary[PreTrainedModel, tuple[tuple[object, ...], StaticCache]] = WeakKeyDictionary()


def growing_cache(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, draws: SeededDraws
) -> list[list[int]]:
    """New tokens of each prompt as one padded batch, with what transformers writes behind the stop token."""
    return _padded_batch(model, prompts, config, draws)


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
    return _padded_batch(model, prompts + prompts[-1:] * missing, config, draws, cache=cache)[: len(prompts)]


def free_memory() -> None:
    """Give back what was kept for the next batch: static caches, compiled steps and their CUDA graphs."""
    if not _static_caches:
        return
    _static_caches.clear()
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.no_grad()
def _padded_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    config: GenerationConfig,
    draws: SeededDraws,
    *,
    cache: StaticCache | None = None,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), config.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    more = {} if cache is None else {"past_key_values": cache}
    with _own_settings(model, config):
        tokens: Tensor = model.generate(
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
            logits_processor=[draws],
            **more,
        )
    return tokens[:, longest:].tolist()


@contextmanager
def _own_settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, and this generation config alone."""
    own_config = model.generation_config
    # Fields that are not set here would otherwise be taken from the model's (a top_k, a repetition penalty).
    model.generation_config = config
    try:
        with evaluation_mode(model), quiet():
            yield
    finally:
        model.generation_config = own_config
