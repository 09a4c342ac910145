"""Three ways to the same new tokens: a growing cache, a static one (compiled on a GPU), continuous batching.

All three leave the model's mode, its generation config and the random state of the CPU and its device as they were.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, StaticCache

from grkd.models.load import quiet

_PAGE_TOKENS = 256  # of transformers' paged cache, its own default
_PREFILL_TOKENS = 2048  # prompt tokens that continuous batching takes in one step

# One static cache a model, kept for the next batch: a CUDA graph is bound to the addresses that it was recorded with.
_static_caches: WeakKeyDictionary[PreTrainedModel, tuple[tuple[object, ...], StaticCache]] = WeakKeyDictionary()


def growing_cache(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, *, seed: int
) -> list[list[int]]:
    """New tokens of each prompt as one padded batch, with what transformers writes behind the stop token."""
    return _padded_batch(model, prompts, config, seed=seed)


def static_cache(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, *, seed: int, rows: int, room: int
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
    filled = prompts + prompts[-1:] * (rows - len(prompts))
    return _padded_batch(model, filled, config, seed=seed, cache=cache)[: len(prompts)]


@torch.no_grad()
def continuous_batching(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, *, seed: int, rows: int, room: int
) -> list[list[int]]:
    """New tokens of each prompt; `rows` are worked on at a time, and a finished one makes place for the next.

    All requests are there before the first step, so that which tokens are drawn together does not depend on time.
    Raises RuntimeError where transformers' generation thread fails.
    """
    settings = ContinuousBatchingConfig(
        num_blocks=rows * -(-room // _PAGE_TOKENS),
        max_batch_tokens=max(rows, min(rows * room, _PREFILL_TOKENS)),
        max_requests_per_batch=rows,
    )
    attention = model.config._attn_implementation
    with _own_settings(model, config):
        manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=settings)
        try:
            manager.warmup()  # makes the cache and sets a seed that depends on the rank; ours comes after it
            torch.manual_seed(seed)
            requests = manager.add_requests(prompts, max_new_tokens=config.max_new_tokens)
            manager.start()
            done: dict[str, list[int]] = {}
            while len(done) < len(requests):
                result = manager.get_result(timeout=1)
                if result is not None and result.error is not None:
                    raise RuntimeError(f"continuous batching failed: {result.error}")
                if result is not None and result.is_finished():
                    done[result.request_id] = result.generated_tokens
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching ended before all responses were there")
        finally:
            manager.stop(block=True, hard_stop=True)
            if model.config._attn_implementation != attention:  # stop leaves it where the thread never started
                model.set_attn_implementation(attention)
    return [done[request] for request in requests]


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
    *,
    seed: int,
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
        torch.manual_seed(seed)
        tokens: Tensor = model.generate(
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
            **more,
        )
    return tokens[:, longest:].tolist()


@contextmanager
def _own_settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, this generation config alone, and a random state of its own."""
    own_config, training, device = model.generation_config, model.training, model.device
    # Fields that are not set here would otherwise be taken from the model's (a top_k, a repetition penalty).
    model.generation_config = config
    model.eval()
    kind, devices = ("cuda", []) if device.type == "cpu" else (device.type, [device])
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind), quiet():
            yield
    finally:
        model.generation_config = own_config
        model.train(training)
