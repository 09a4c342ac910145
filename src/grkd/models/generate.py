"""Responses sampled from a language model, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from grkd.console import console
from grkd.errors import UserError
from grkd.kernels.draw_tokens import check_options
from grkd.models import _decoding, graph_sampler
from grkd.models.graph_sampler import Response as Response
from grkd.models.seeded_draws import SeededDraws, seeds_of
from grkd.models.shard import is_sharded

Method = Literal["auto", "graph", "dynamic", "static"]

# Below so many responses compiling does not pay: 25 s are about 8,000 responses of 28 tokens.
_MANY_RESPONSES = 8192
_ROOM_STEP = 128  # caches of fixed size grow in such steps, so that few sizes are compiled
_ROWS = {"cpu": 16, "cuda": 64}  # decoded at a time by `generate`, where the caller does not say

_said: set[str] = set()  # reasons for the slower way that were printed


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
    batch_size: int | None = None,
    method: Method = "auto",
    room: int | None = None,
    vocabulary: int | None = None,
) -> Iterator[list[Response]]:
    """One response per prompt; yields some as soon as they are done, in the order of `index` within each list.

    For several responses to a prompt, give it several times. Prompts are taken longest first, so that a lack of memory
    shows at once. temperature 0: the most likely token each time. Nothing of the model's own generation config is used.
    batch_size: rows decoded at a time; None: what the memory holds with "graph", else 64 on a GPU and 16 on a CPU.
    method: "graph", a decode step of our own over a cache of fixed size, one CUDA graph on a GPU, a finished row makes
    place for the next; "dynamic", transformers' `generate` over a cache that grows; "static", over one of fixed size,
    whose step of one token is compiled on a GPU; "auto", see fastest_method.
    room: tokens of prompt and response that a row of "graph" and "static" holds; by default enough for these prompts.
    Give the longest of all where calls follow each other: the graph is then recorded once.
    vocabulary: tokens from there on are never drawn (heads are padded; no tokenizer knows those).
    A text depends on the seed, its prompt and the number of equal prompts before it: not on the method, the batch or
    the other prompts, up to rounding. Nothing is drawn from torch's random state.
    Raises UserError for options out of range and for "graph" where the model cannot be decoded so, ValueError for an
    empty prompt or one without room.
    """
    check_options(temperature=temperature, top_p=top_p)
    _decoding.check_call(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    if not prompts:
        return
    needed = max(map(len, prompts)) + max_new_tokens
    room = -(-needed // _ROOM_STEP) * _ROOM_STEP if room is None else room
    if room < needed:
        raise ValueError(f"room for {room} tokens, but the longest prompt and its response need {needed}")
    vocabulary = len(model.get_output_embeddings().weight) if vocabulary is None else vocabulary
    seeds = seeds_of(seed, prompts)
    chosen = fastest_method(model, len(prompts)) if method == "auto" else method
    if chosen == "graph":
        draw = graph_sampler.Draw(temperature=temperature, top_p=top_p, vocabulary=vocabulary)
        try:
            yield from graph_sampler.sample(
                model,
                prompts,
                seeds=seeds,
                max_new_tokens=max_new_tokens,
                draw=draw,
                stop_ids=stop_ids,
                batch_size=batch_size,
                room=room,
            )
            return
        except graph_sampler.NotSupportedError as error:
            if method == "graph":
                raise UserError(f"method graph cannot sample from this model: {error}; use auto or dynamic") from None
            chosen = fastest_method(model, len(prompts))
    config = _decoding.generation_config(max_new_tokens=max_new_tokens, stop_ids=stop_ids, pad_token_id=pad_token_id)
    rows = _ROWS.get(model.device.type, 64) if batch_size is None else batch_size
    for part in _decoding.longest_first(prompts, rows):
        batch = [prompts[index] for index in part]
        draws = SeededDraws(
            torch.tensor([seeds[index] for index in part], device=model.device),
            temperature=temperature,
            top_p=top_p,
            vocabulary=vocabulary,
        )
        if chosen == "static":
            found = _decoding.static_cache(model, batch, config, draws, rows=rows, room=room)
        else:
            found = _decoding.growing_cache(model, batch, config, draws)
        responses = []
        for index, tokens in sorted(zip(part, found, strict=True)):
            end = _decoding.end_of(tokens, stop_ids)
            responses.append(Response(index, tokens[:end], finished=end is not None))
        yield responses


def fastest_method(model: PreTrainedModel, responses: int) -> Method:
    """The method for so many responses on the model's device: on a GPU "graph" for every model that it knows.

    For others "static" where compiling pays, else "dynamic"; why is printed once. Sharded models are never compiled:
    their processes take turns call by call (grkd.models.shard.in_turns), which no recorded graph would do.
    """
    if model.device.type != "cuda":
        return "dynamic"
    if (reason := graph_sampler.reason_against(model)) is None:
        return "graph"
    if reason not in _said:
        _said.add(reason)
        console.print(f"[yellow]sampling by transformers' generate, which is slower: {reason}[/yellow]", soft_wrap=True)
    compiles = getattr(model, "_can_compile_fullgraph", False) and not is_sharded(model)
    return "static" if compiles and responses >= _MANY_RESPONSES else "dynamic"


def free_memory() -> None:
    """Give back what was kept for the next call: caches of fixed size, compiled steps and CUDA graphs."""
    graph_sampler.free_memory()
    _decoding.free_memory()
