"""Candidates for groups, sampled from the teacher or the student, as the student's token ids."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grkd.answers.kept import kept_answers
from grkd.console import console
from grkd.data.chat import decode_response, encode_prompt, opened_thought, stop_token_ids
from grkd.data.language import vocabulary_size
from grkd.data.prompts import restored
from grkd.errors import UserError
from grkd.language.cached import CachedSampler
from grkd.language.context import LanguageContext
from grkd.language.self_teacher import ShownPrompts
from grkd.language.served_sampling import ServedSampler
from grkd.language.several_writers import several_writers
from grkd.language.shard import Shard, ShardSampler, student_ids_of
from grkd.models.generate import Response, fastest_method, generate_responses
from grkd.models.load import cast_weights, context_length
from grkd.recipe import SelfTeacher
from grkd.run.device import dtype
from grkd.served.writer import seed_of

Record = dict[str, Any]

_SEED_OF = {"teacher": 0, "student": 1 << 52}
_BITS_OF_LABEL = 20  # below a label's part of a seed: numbers of shards


def samplers(context: LanguageContext, shares: Mapping[str, int], prompts: Sequence[Record]) -> dict[str, ShardSampler]:
    """A sampler per model among the sources; shares: responses per prompt from each. `prompts`: of the whole run."""
    if context.models.cached is not None:
        return {source: CachedSampler(context, source, share, prompts) for source, share in shares.items()}
    made: dict[str, ShardSampler] = {}
    if "teacher" in shares and context.teachers:
        made["teacher"] = several_writers(context, shares["teacher"], prompts, _one_of_several)
    elif "teacher" in shares:
        made["teacher"] = _of_teacher(context, shares["teacher"], prompts)
    if "student" in shares:
        # Weights are trained in float32; to sample from them a GPU needs no more than it computes in.
        device = context.models.device
        student = cast_weights(context.models.student(), dtype(context.recipe.student.dtype, device))
        student = student.to(device).eval()
        made["student"] = Sampler(context, student, "student", shares["student"], prompts)
    return made


def _of_teacher(
    context: LanguageContext, share: int, prompts: Sequence[Record], *, label: str | None = None
) -> "ServedSampler | Sampler":
    if context.models.served is not None:
        return ServedSampler(context, share, prompts, label=label)
    kind = Sampler if context.models.teacher_tokenizer is None else ForeignSampler
    return kind(context, context.models.teacher(), "teacher", share, prompts)


def _one_of_several(context: LanguageContext, label: str, prompts: Sequence[Record]) -> ShardSampler:
    made = _of_teacher(context, 1, prompts, label=label)
    if isinstance(made, Sampler):
        made.apart = seed_of(label) << _BITS_OF_LABEL
        if not isinstance(made, ForeignSampler):  # tokens.json has the stop tokens of the first teacher
            own = stop_token_ids(context.models.tokenizer, made.model.generation_config)
            made.stop_ids = list(dict.fromkeys([*made.student_stop_ids, *own]))
    return made


class Sampler:
    """Samples `share` responses to every prompt of a shard from a model with the student's tokens."""

    def __init__(
        self, context: LanguageContext, model: PreTrainedModel, source: str, share: int, prompts: Sequence[Record]
    ) -> None:
        self.recipe, self.settings, self.models = context.recipe, context.recipe.responses, context.models
        self.model, self.share = model, share
        self.apart = _SEED_OF[source]  # added to the seed, so that two models do not get the same random numbers
        own_prompts = source == "teacher" and isinstance(self.recipe.teacher, SelfTeacher)
        self.shown = ShownPrompts(context) if own_prompts else None
        numbers = context.models.numbers
        self.student_stop_ids, self.pad_token_id = numbers["stop_ids"], numbers["pad_token_id"]
        self.stop_ids = numbers["teacher_stop_ids"] if source == "teacher" else self.student_stop_ids
        self.vocabulary = numbers["vocabulary"]
        # Both depend on the run as a whole, so that a shard made after a kill, or by another rank, is the same.
        self.method = fastest_method(model, len(prompts) * share)
        self.room = self._room(prompts)

    def __call__(self, shard: Shard) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt; those in the journal are not sampled."""
        prompts, counts = shard.prompts, shard.counts
        sample = partial(
            generate_responses,
            self.model,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=self.stop_ids,
            pad_token_id=self.pad_token_id,
            seed=self.recipe.seeds[0] * 1_000_003 + shard.number + self.apart,
            batch_size=self.settings.batch_size,
            method=self.method,
            room=self.room,
            vocabulary=self.vocabulary,
        )
        found: dict[int, list[int]] = {}
        asked = [ids for ids in self._prompt_ids(prompts) for _ in range(self.share)]
        for answers in kept_answers(shard.journal, asked, sample):
            tokens = sum(len(response.response_ids) for response in answers.responses)
            counts["generated_tokens"] += tokens
            counts["generation_ms"] += answers.milliseconds
            shard.progress(len(answers.responses), 0 if answers.kept else tokens)
            if answers.kept:
                console.print(f"respond: {len(answers.responses)} answers kept from an earlier command")
            for response in answers.responses:
                ids = self._student_ids(prompts[response.index // self.share], response)
                counts["responses_not_rendered"] += not ids
                found[response.index] = ids
        return [[found[at * self.share + copy] for copy in range(self.share)] for at in range(len(prompts))]

    def _room(self, prompts: Sequence[Record]) -> int | None:
        return max(map(len, self._prompt_ids(prompts))) + self.settings.max_new_tokens

    def _prompt_ids(self, prompts: Iterable[Record]) -> list[list[int]]:
        if self.shown is None:
            return [prompt["prompt_ids"] for prompt in prompts]
        room = self.settings.max_new_tokens
        return [self.shown(prompt, prompt["id"], response_tokens=room) for prompt in prompts]

    def _student_ids(self, prompt: Record, response: Response) -> list[int]:
        ids = response.response_ids
        if response.finished and ids[-1] not in self.student_stop_ids:  # ended as the teacher alone ends
            return [*ids[:-1], self.student_stop_ids[0]]
        return ids


class ForeignSampler(Sampler):
    """The same from a teacher with another vocabulary: prompts in its tokens, and back to the student's by the text."""

    def __init__(
        self, context: LanguageContext, model: PreTrainedModel, source: str, share: int, prompts: Sequence[Record]
    ) -> None:
        assert context.models.teacher_tokenizer is not None
        super().__init__(context, model, source, share, prompts)
        self.own: PreTrainedTokenizerBase = context.models.teacher_tokenizer
        self.stop_ids = stop_token_ids(self.own, model.generation_config)
        self.vocabulary = vocabulary_size(self.own)
        self.pad_token_id = self.stop_ids[0] if self.own.pad_token_id is None else self.own.pad_token_id
        self.context = context_length(model)
        self.opened: dict[str, str] = {}  # per prompt: the start of a thought that its end writes

    def _room(self, prompts: Sequence[Record]) -> int | None:
        return None  # not known without the teacher's tokens of every prompt

    def _prompt_ids(self, prompts: Iterable[Record]) -> list[list[int]]:
        encoded = []
        for prompt in prompts:
            ids = encode_prompt(self.own, restored(prompt), system=self.recipe.data.system)
            length = len(ids) + self.settings.max_new_tokens
            if self.context is not None and length > self.context:
                raise UserError(
                    f"teacher: prompt {prompt['id']} and its response take {length} of its tokens, its context is "
                    f"{self.context}; lower data.max_prompt_tokens or responses.max_new_tokens"
                )
            self.opened[prompt["id"]] = opened_thought(self.own, ids)
            encoded.append(ids)
        return encoded

    def _student_ids(self, prompt: Record, response: Response) -> list[int]:
        """The response's text in the student's tokens, from the thought that the teacher's prompt opens."""
        text = decode_response(self.own, response.response_ids, self.stop_ids)
        text = self.opened[prompt["id"]] + text
        return student_ids_of(self.models, self.recipe, prompt, text, finished=response.finished)
