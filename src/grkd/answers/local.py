"""A model's answers to a benchmark's questions: generated once, stored as they come, reused."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grkd.answers.identity import model_digest
from grkd.console import progress_bar
from grkd.data.chat import encode_prompt, stop_token_ids
from grkd.data.prompts import Example
from grkd.endpoint.client import Endpoint, Messages, RequestFailed
from grkd.endpoint.journal import Journal
from grkd.endpoint.threads import Calls
from grkd.errors import UserError
from grkd.files import digest
from grkd.models.generate import generate_responses
from grkd.models.load import context_length, load_language_model, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Question:
    """A conversation's user turns; turn k is asked after the model's answers to those before."""

    id: str
    turns: tuple[str, ...]
    temperature: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. At temperature 0, a question's default, top_p and seed have no part."""

    max_new_tokens: int
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Text:
    """An answer and its cost. finished: it ended by itself. too_long: the prompt left no room, the answer is empty."""

    text: str
    finished: bool
    prompt_tokens: int
    tokens: int
    seconds: float
    too_long: bool = False


class LocalModel:
    """A model's folder, GGUF file or hub name, answering in batches of `batch_size`.

    identity: what its stored answers are known by.

    Raises UserError, on creation, where its tokenizer cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int = 8,
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.device, self.dtype, self.batch_size = model, device, dtype, batch_size
        self._remote = trust_remote_code
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model, trust_remote_code=trust_remote_code)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The model's content (see model_digest) and the precision of its answers."""
        return {"model": model_digest(self.name), "dtype": str(self.dtype).removeprefix("torch.")}

    @cached_property
    def model(self) -> PreTrainedModel:
        loaded = load_language_model(self.name, dtype=self.dtype, trust_remote_code=self._remote)
        return loaded.to(self.device)

    def answers(
        self, conversations: Sequence[Messages], *, stored: set[int], sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        """Index and answer of each conversation that is not `stored`, as they come.

        Batches are the same whatever is stored already, so a run taken up again samples the same texts."""
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
            return encode_prompt(self.tokenizer, Example(id="question", messages=messages))
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
                        text=self.tokenizer.decode(response.response_ids, skip_special_tokens=True).strip(),
                        finished=response.finished,
                        prompt_tokens=len(prompts[place]),
                        tokens=len(response.response_ids),
                        seconds=seconds,
                    ),
                )


class RemoteModel:
    """A model behind an OpenAI-compatible endpoint, `concurrency` requests at a time.

    Its key comes from the environment (see Endpoint). Raises UserError for an endpoint that cannot work.
    """

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 4) -> None:
        self.endpoint, self.concurrency = endpoint, concurrency

    @property
    def identity(self) -> dict[str, Any]:
        return {"url": self.endpoint.url, "model": self.endpoint.model}

    def answers(
        self, conversations: Sequence[Messages], *, stored: set[int], sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        """As LocalModel's. Raises UserError where a request gets no answer, after those on their way came in."""
        calls = {
            index: partial(self._one, messages, sampling, temperature)
            for index, messages in enumerate(conversations)
            if index not in stored
        }
        failed: RequestFailed | None = None
        self.endpoint.stopped.clear()
        with Calls(calls, concurrency=self.concurrency) as running, self.endpoint.one_try_after_an_error():
            for index, done in running:
                try:
                    yield index, done.result()
                except RequestFailed as failure:
                    failed = failed or failure
                    self.endpoint.stopped.set()
                    running.drop()
        if failed is not None:
            raise UserError(
                f"model: {self.endpoint.url} gives no answer: {failed}; answers so far are kept, "
                "the same command goes on"
            )

    def _one(self, messages: Messages, sampling: Sampling, temperature: float) -> Text:
        try:
            reply = self.endpoint.complete(
                messages,
                max_tokens=sampling.max_new_tokens,
                temperature=temperature,
                seed=sampling.seed if temperature > 0 else None,
            )
        except RequestFailed as failure:
            if not failure.refused or "context" not in str(failure):
                raise
            return Text(text="", finished=False, prompt_tokens=0, tokens=0, seconds=0.0, too_long=True)
        return Text(
            text=reply.text.strip(),
            finished=reply.finish_reason == "stop",
            prompt_tokens=reply.prompt_tokens,
            tokens=reply.completion_tokens,
            seconds=reply.seconds,
        )


def answer(
    source: LocalModel | RemoteModel,
    questions: Sequence[Question],
    *,
    sampling: Sampling,
    store: Path,
    description: str = "answer",
) -> dict[str, list[Text]]:
    """Each question's answers, one a turn, from `store` (JSON lines) or from the model, which are then stored.

    A line holds the messages asked, the answer and its cost. A stored answer counts only for the same model, messages
    and sampling. Raises what the source raises.
    """
    journal = Journal(store)
    found: dict[str, list[Text]] = {question.id: [] for question in questions}
    with progress_bar() as bar:
        task = bar.add_task(description, total=0, unit="answers", visible=False)
        for group, turn in _groups(questions):
            records = [_record(source, question, turn, found[question.id], sampling) for question in group]
            stored = {index for index, record in enumerate(records) if record["key"] in journal}
            if len(stored) < len(group):
                bar.update(task, total=bar.tasks[task].completed + len(group) - len(stored), visible=True)
                for index, text in source.answers(
                    [record["messages"] for record in records],
                    stored=stored,
                    sampling=sampling,
                    temperature=group[0].temperature,
                ):
                    journal.add(records[index]["key"], {**records[index], **vars(text)})
                    bar.advance(task)
            for question, record in zip(group, records, strict=True):
                line = journal.get(record["key"])
                assert line is not None
                found[question.id].append(Text(**{name: line[name] for name in Text.__dataclass_fields__}))
    return found


def _groups(questions: Sequence[Question]) -> Iterator[tuple[list[Question], int]]:
    """Questions of one temperature that have a turn of this number (from 0): what is answered together."""
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked = [question for question in questions if len(question.turns) > turn]
        for temperature in sorted({question.temperature for question in asked}):
            yield [question for question in asked if question.temperature == temperature], turn


def _record(
    source: LocalModel | RemoteModel, question: Question, turn: int, answers: list[Text], sampling: Sampling
) -> dict[str, Any]:
    """What is asked of the model at a turn, and the key that its answer is stored under."""
    messages, temperature = _messages(question, turn, answers), question.temperature
    drawn = [sampling.top_p, sampling.seed] if temperature > 0 else []
    return {
        "key": digest([source.identity, messages, temperature, sampling.max_new_tokens, drawn]),
        "id": question.id,
        "turn": turn + 1,
        "model": source.identity,
        "messages": messages,
        "temperature": temperature,
        "max_new_tokens": sampling.max_new_tokens,
    }


def _messages(question: Question, turn: int, answers: list[Text]) -> Messages:
    """The conversation up to the user's turn number `turn` (from 0)."""
    messages: Messages = []
    for earlier in range(turn):
        messages.append({"role": "user", "content": question.turns[earlier]})
        messages.append({"role": "assistant", "content": answers[earlier].text})
    return [*messages, {"role": "user", "content": question.turns[turn]}]
