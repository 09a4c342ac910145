"""A local model that answers in batches."""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grkd.answers.identity import model_digest
from grkd.answers.question import Sampling, Text
from grkd.data.chat import answer_text, decode_response, encode_prompt, stop_token_ids
from grkd.data.prompts import Example
from grkd.endpoint.client import Messages
from grkd.models.generate import generate_responses
from grkd.models.load import context_length, load_language_model, load_tokenizer


class LocalModel:
    """A model's folder, GGUF file or hub name, answering in batches of `batch_size`.

    identity: what its stored answers are known by.

    Raises UserError, on creation, if its tokenizer cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int = 8,
        trust_remote_code: bool = False,
        template_options: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.device, self.dtype, self.batch_size = model, device, dtype, batch_size
        self._remote, self._options = trust_remote_code, template_options or None
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model, trust_remote_code=trust_remote_code)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The model's content (see model_digest), the precision of its answers, variables of its chat template."""
        known = {"model": model_digest(self.name), "dtype": str(self.dtype).removeprefix("torch.")}
        return known if self._options is None else {**known, "chat_template_kwargs": self._options}

    @cached_property
    def model(self) -> PreTrainedModel:
        loaded = load_language_model(self.name, dtype=self.dtype, trust_remote_code=self._remote)
        return loaded.to(self.device)

    def answers(
        self, conversations: Sequence[Messages], *, stored: set[int], sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        """Index and answer of each conversation that is not `stored`, as they come.

        Batches are the same whatever is stored already, so a resumed run samples the same texts."""
        for start in range(0, len(conversations), self.batch_size):
            batch = range(start, min(start + self.batch_size, len(conversations)))
            if stored.issuperset(batch):
                continue
            prompts = [self._encoded(conversations[index]) for index in batch]
            for place, text in self._generated(prompts, sampling, temperature):
                if batch[place] not in stored:
                    yield batch[place], text

    def _encoded(self, messages: Messages) -> list[int]:
        if self.tokenizer.chat_template is not None:
            return encode_prompt(
                self.tokenizer, Example(id="question", messages=messages, template_options=self._options)
            )
        # A model without a chat template is a base model: the turns are one text.
        text = "\n\n".join(message["content"] for message in messages)
        return encode_prompt(self.tokenizer, Example(id="question", prompt=text))

    def _generated(
        self, prompts: list[list[int]], sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        context = context_length(self.model) or 1 << 20
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) < context]
        roomy = [place for place in fitting if context - len(prompts[place]) >= sampling.max_new_tokens]
        for place in set(range(len(prompts))) - set(fitting):
            yield (
                place,
                Text(text="", finished=False, prompt_tokens=len(prompts[place]), tokens=0, seconds=0.0, too_long=True),
            )
        # A prompt that leaves less room than asked for is answered alone: it must not cut its neighbours' answers.
        for together in ([roomy] if roomy else []) + [[place] for place in fitting if place not in roomy]:
            yield from self._together(prompts, together, context, sampling, temperature)

    def _together(
        self, prompts: list[list[int]], places: list[int], context: int, sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        begun = time.monotonic()
        stop_ids = stop_token_ids(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        for responses in generate_responses(
            self.model,
            [prompts[place] for place in places],
            max_new_tokens=min(sampling.max_new_tokens, context - max(len(prompts[place]) for place in places)),
            temperature=temperature,
            top_p=sampling.top_p,
            stop_ids=stop_ids,
            pad_token_id=stop_ids[0] if pad is None else pad,
            seed=sampling.seed,
            batch_size=len(places),
        ):
            seconds = round((time.monotonic() - begun) / len(places), 3)
            for response in responses:
                place = places[response.index]
                yield (
                    place,
                    Text(
                        text=answer_text(decode_response(self.tokenizer, response.response_ids, stop_ids)).strip(),
                        finished=response.finished,
                        prompt_tokens=len(prompts[place]),
                        tokens=len(response.response_ids),
                        seconds=seconds,
                    ),
                )
