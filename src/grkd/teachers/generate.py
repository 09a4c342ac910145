"""Responses sampled from a language model, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from grkd.errors import UserError
from grkd.files import digest
from grkd.teachers.models import quiet


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
) -> Iterator[list[Response]]:
    """One response a prompt; yields a batch as soon as it is done, in the order of `index` within the batch.

    Prompts are batched by length (longest first, so that a lack of memory shows at once), padded on the left.
    temperature 0: the most likely token each time. Nothing of the model's own generation config is used.
    The text of a batch depends on the seed, the batch's number and its prompts alone, so a run that is taken up again
    with the same prompts gives the same text. The random state of the CPU and the model's device is left as it was.
    Raises UserError for options out of range, ValueError for an empty prompt.
    """
    _check(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, batch_size=batch_size)
    if not all(prompts):
        raise ValueError("a prompt must have at least one token")
    config = _generation_config(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_ids=list(stop_ids),
        pad_token_id=pad_token_id,
    )
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for number, start in enumerate(range(0, len(order), batch_size)):
        chosen = order[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        rows = _generated(model, batch, config, seed=int(digest([seed, number, batch])[:15], 16))
        responses = [_cut(index, row, stop_ids) for index, row in zip(chosen, rows, strict=True)]
        yield sorted(responses, key=lambda response: response.index)


def _check(*, max_new_tokens: int, temperature: float, top_p: float, batch_size: int) -> None:
    if max_new_tokens < 1 or batch_size < 1:
        raise UserError(f"max_new_tokens and batch_size must be 1 or more, got {max_new_tokens} and {batch_size}")
    if temperature < 0:
        raise UserError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")


def _generation_config(
    *, max_new_tokens: int, temperature: float, top_p: float, stop_ids: list[int], pad_token_id: int
) -> GenerationConfig:
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        eos_token_id=stop_ids or None,
        pad_token_id=pad_token_id,
        **sampling,
    )


@torch.no_grad()
def _generated(
    model: PreTrainedModel, batch: list[list[int]], config: GenerationConfig, *, seed: int
) -> list[list[int]]:
    """New tokens of each row, with what transformers writes behind the stop token."""
    longest = max(map(len, batch))
    input_ids = torch.full((len(batch), longest), config.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(batch):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    own_config, training = model.generation_config, model.training
    # Fields that are not set here would otherwise be taken from the model's (a top_k, a repetition penalty).
    model.generation_config = config
    model.eval()
    device = model.device
    kind, devices = ("cuda", []) if device.type == "cpu" else (device.type, [device])
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind), quiet():
            torch.manual_seed(seed)
            tokens: Tensor = model.generate(
                input_ids.to(device), attention_mask=attention_mask.to(device), generation_config=config
            )
    finally:
        model.generation_config = own_config
        model.train(training)
    return tokens[:, longest:].tolist()


def _cut(index: int, tokens: list[int], stop_ids: Sequence[int]) -> Response:
    """The tokens up to the first stop token."""
    for position, token in enumerate(tokens):
        if token in stop_ids:
            return Response(index, tokens[: position + 1], finished=True)
    return Response(index, tokens, finished=False)
