"""Responses sampled from a language model, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import GenerationConfig, PreTrainedModel

from grkd.errors import UserError
from grkd.files import digest
from grkd.models import _decoding
from grkd.models._decoding import free_memory as free_memory

Method = Literal["auto", "dynamic", "static", "continuous"]

# What "auto" is on a CUDA device; benchmarks/generation.py measures the three: 1.5 times the tokens a second of the
# growing cache, after some 25 s of compiling (benchmarks/results/2026-11-22-generation.json).
_FASTEST_ON_CUDA: Method = "static"
# Below so many responses compiling does not pay: 25 s are about 8,000 responses of 28 tokens.
_MANY_RESPONSES = 8192
_ROOM_STEP = 128  # caches of fixed size grow in such steps, so that few sizes are compiled


@dataclass(frozen=True)
class Response:
    """A response to prompts[index]; its ids end with the stop token where one was reached (`finished`)."""

    index: int
    response_ids: list[int]
    finished: bool


def generate_responses(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop_ids: Sequence[int],
    pad_token_id: int,
    seed: int,
    batch_size: int,
    method: Method = "auto",
    room: int | None = None,
    vocabulary: int | None = None,
) -> Iterator[list[Response]]:
    """One response a prompt; yields a batch as soon as it is done, in the order of `index` within the batch.

    For several responses to a prompt, give it several times: copies lie side by side in the batches. Prompts are
    batched by length (longest first, so that a lack of memory shows at once), padded on the left.
    temperature 0: the most likely token each time. Nothing of the model's own generation config is used.
    method: "dynamic", a cache that grows; "static", one of fixed size, whose step of one token is compiled on a GPU;
    "continuous", batch_size rows at a time where a finished one makes place for the next (all responses come as one
    batch); "auto", see fastest_method. room: tokens of prompt and response for which the last two make a row of their
    cache; by default enough for these prompts. Give the longest of all where calls follow each other: static then
    compiles once. vocabulary: tokens from there on are never drawn (heads are padded; no tokenizer knows those).
    The text of a batch depends on the method, the seed, the batch's number and its prompts alone, so a run that is
    taken up again with the same prompts gives the same text. The random state of the CPU and the model's device is left
    as it was.
    Raises UserError for options out of range, ValueError for an empty prompt or one without room.
    """
    _check(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, batch_size=batch_size)
    if not all(prompts):
        raise ValueError("a prompt must have at least one token")
    if not prompts:
        return
    needed = max(map(len, prompts)) + max_new_tokens
    room = -(-needed // _ROOM_STEP) * _ROOM_STEP if room is None else room
    if room < needed:
        raise ValueError(f"room for {room} tokens, but the longest prompt and its response need {needed}")
    config = _generation_config(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_ids=list(stop_ids),
        pad_token_id=pad_token_id,
        unknown=range(0) if vocabulary is None else range(vocabulary, _head_size(model)),
    )
    if method == "auto":
        method = fastest_method(model, len(prompts))
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    size = len(order) if method == "continuous" else batch_size
    for number, start in enumerate(range(0, len(order), size)):
        chosen = order[start : start + size]
        batch = [prompts[index] for index in chosen]
        batch_seed = int(digest([seed, number, batch])[:15], 16)
        if method == "dynamic":
            rows = _decoding.growing_cache(model, batch, config, seed=batch_seed)
        elif method == "static":
            rows = _decoding.static_cache(model, batch, config, seed=batch_seed, rows=batch_size, room=room)
        else:
            rows = _decoding.continuous_batching(model, batch, config, seed=batch_seed, rows=batch_size, room=room)
        responses = [_cut(index, row, stop_ids) for index, row in zip(chosen, rows, strict=True)]
        yield sorted(responses, key=lambda response: response.index)


def fastest_method(model: PreTrainedModel, responses: int) -> Method:
    """The method for so many responses on the model's device: what was measured to be fastest where there are many."""
    if model.device.type != "cuda" or responses < _MANY_RESPONSES:
        return "dynamic"
    if _FASTEST_ON_CUDA == "static" and not getattr(model, "_can_compile_fullgraph", False):
        return "dynamic"
    return _FASTEST_ON_CUDA


def _check(*, max_new_tokens: int, temperature: float, top_p: float, batch_size: int) -> None:
    if max_new_tokens < 1 or batch_size < 1:
        raise UserError(f"max_new_tokens and batch_size must be 1 or more, got {max_new_tokens} and {batch_size}")
    if temperature < 0:
        raise UserError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")


def _generation_config(
    *, max_new_tokens: int, temperature: float, top_p: float, stop_ids: list[int], pad_token_id: int, unknown: range
) -> GenerationConfig:
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        eos_token_id=stop_ids or None,
        pad_token_id=pad_token_id,
        suppress_tokens=list(unknown) or None,
        **sampling,
    )


def _head_size(model: PreTrainedModel) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _cut(index: int, tokens: list[int], stop_ids: Sequence[int]) -> Response:
    """The tokens up to the first stop token."""
    for position, token in enumerate(tokens):
        if token in stop_ids:
            return Response(index, tokens[: position + 1], finished=True)
    return Response(index, tokens, finished=False)
