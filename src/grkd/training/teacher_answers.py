"""A teacher's own responses to the prompts of records, for methods that learn from them; kept as they come.

A GRKDTrainer's teacher is a model in this process, or behind a server, or several that take turns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grkd.answers.kept import kept_answers
from grkd.console import track
from grkd.data.chat import decode_response, encode_prompt, opened_thought, stop_token_ids
from grkd.data.language import vocabulary_size
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.files import digest
from grkd.models.generate import Response, free_memory, generate_responses
from grkd.models.load import context_length
from grkd.models.shard import in_turns, is_sharded
from grkd.models.weights_digest import weights_digest
from grkd.ranks import from_main, gathered, ranks
from grkd.served.writer import Asked, Drawing, ServedWriter, seed_of
from grkd.teacher.turns import turns_of
from grkd.training.given_teachers import Given
from grkd.training.grkd_config import GRKDConfig
from grkd.training.teacher_side import TeacherSide

TEMPERATURE, TOP_P = 1.0, 0.95  # the defaults of `responses` in a recipe


@dataclass(frozen=True, kw_only=True)
class TeacherAnswer:
    """A response of the teacher: its text, and its token ids if teacher and student share a vocabulary."""

    text: str
    response_ids: list[int] | None
    finished: bool


Answers = Callable[[Sequence[Example], str], list[TeacherAnswer]]  # one per example; where: for errors


def answers_of(sides: Sequence[TeacherSide], args: GRKDConfig, stop_ids: Sequence[int]) -> Answers:
    """Whoever writes the teacher's responses: the model in this process, its server, or several in turns."""
    each = [(TeacherAnswers if side.served is None else ServedAnswers)(side, args, stop_ids) for side in sides]
    if len(each) == 1:
        return each[0]
    given = {side.given.name: side.given for side in sides}
    return SeveralAnswers(given, dict(zip(given, each, strict=True)))


@dataclass(frozen=True)
class _Writing:
    """How the teacher writes: one response per prompt, at temperature 1 and top_p 0.95.

    stop_ids: of the student. Responses are kept in output_dir/teacher_responses as they come, so that another start
    with the same teacher and prompts asks for nothing again.
    """

    side: TeacherSide
    args: GRKDConfig
    stop_ids: Sequence[int]

    @property
    def folder(self) -> Path:
        return Path(str(self.args.output_dir)) / "teacher_responses"

    def _prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        return [encode_prompt(self.side.tokenizer, example, system=self.args.system) for example in examples]


class TeacherAnswers(_Writing):
    """From a model in this process. Ranks share the prompts, and all have the result."""

    def __call__(self, examples: Sequence[Example], where: str) -> list[TeacherAnswer]:
        """One response per example. Raises UserError for a prompt that leaves no room in the teacher's context."""
        prompts = self._prompts(examples)
        self._check_room(examples, prompts, where)
        state = ranks()
        # Equal prompts stay together: a response depends on the number of equal prompts before it.
        first = {ids: number for number, ids in enumerate(dict.fromkeys(map(tuple, prompts)))}
        mine = [at for at, ids in enumerate(prompts) if first[tuple(ids)] % state.num_processes == state.process_index]
        weights = weights_digest(self._model())  # of a sharded one all ranks together, before they ask it in turns
        with in_turns(self._model()):
            responses = self._sampled([prompts[at] for at in mine], where, weights) if mine else []
        found = list(zip(mine, responses, strict=True))
        by_place = dict(gathered(found, f"{where}: the teacher's responses"))
        return [self._answer(prompts[at], by_place[at]) for at in range(len(prompts))]

    def _sampled(self, prompts: list[list[int]], where: str, weights: str) -> list[Response]:
        tokenizer, model = self.side.tokenizer, self._model()
        stop_ids = self._stop_ids()
        pad = tokenizer.pad_token_id
        settings: dict[str, Any] = {
            "max_new_tokens": self.args.max_new_tokens,
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "stop_ids": stop_ids,
            "seed": self.args.seed,
            "vocabulary": vocabulary_size(tokenizer),
        }
        sample = partial(
            generate_responses,
            model,
            **settings,
            pad_token_id=stop_ids[0] if pad is None else pad,
            batch_size=self.args.sampling_batch_size,
        )
        name = digest([prompts, settings, weights])[:16]
        path = self.folder / f"{name}.jsonl"
        answers = (answer for some in kept_answers(path, prompts, sample) for answer in some.responses)
        shown = track(answers, f"{where}: the teacher's responses", unit="responses", total=len(prompts))
        responses = sorted(shown, key=lambda answer: answer.index)
        free_memory()
        return responses

    def _model(self) -> Any:
        model = self.side.model
        return model if is_sharded(model) else model.to(self.args.device).eval()

    def _answer(self, prompt_ids: Sequence[int], response: Response) -> TeacherAnswer:
        tokenizer = self.side.tokenizer
        text = opened_thought(tokenizer, prompt_ids) + decode_response(
            tokenizer, response.response_ids, self._stop_ids()
        )
        ids = response.response_ids if self.side.shared else None
        return TeacherAnswer(text=text, response_ids=ids, finished=response.finished)

    def _stop_ids(self) -> list[int]:
        """The teacher may end its turns by another token than the student's, also of one vocabulary."""
        own = stop_token_ids(self.side.tokenizer, self.side.model.generation_config)
        return list(dict.fromkeys([*self.stop_ids, *own])) if self.side.shared else own

    def _check_room(self, examples: Sequence[Example], prompts: Sequence[list[int]], where: str) -> None:
        context = context_length(self.side.model)
        for example, ids in zip(examples, prompts, strict=True):
            if context is not None and len(ids) + self.args.max_new_tokens > context:
                raise UserError(
                    f"{where}: prompt {example.id} and its response take {len(ids) + self.args.max_new_tokens} of the "
                    f"teacher's tokens, its context is {context}; lower max_new_tokens, or remove the record"
                )


@dataclass(frozen=True)
class SeveralAnswers:
    """One response per prompt by the teacher whose turn it is; given, answers: by label."""

    given: Mapping[str, Given]
    answers: Mapping[str, Answers]

    def __call__(self, examples: Sequence[Example], where: str) -> list[TeacherAnswer]:
        """One response per example. Raises UserError for a record that no teacher takes."""
        records = {f"{where} {at}": example.columns for at, example in enumerate(examples)}
        turns = [who for (who,) in turns_of(self.given, records, share=1).values()]
        mine = {label: [one for one, who in zip(examples, turns, strict=True) if who == label] for label in self.given}
        written = {label: iter(self.answers[label](mine[label], where) if mine[label] else []) for label in self.given}
        return [next(written[who]) for who in turns]


class ServedAnswers(_Writing):
    """From a served teacher."""

    def __call__(self, examples: Sequence[Example], where: str) -> list[TeacherAnswer]:
        """One response per example. Raises UserError unless all are answered."""
        return from_main(lambda: self._answered(examples), f"{where}: the teacher's responses")

    def _answered(self, examples: Sequence[Example]) -> list[TeacherAnswer]:
        teacher, tokenizer = self.side.served, self.side.tokenizer
        assert teacher is not None
        stops = tuple(stop_token_ids(tokenizer) if teacher.reads_text else self.stop_ids)
        write = ServedWriter(
            teacher.server.endpoint,
            folder=self.folder,
            concurrency=teacher.concurrency,
            vocabulary=vocabulary_size(tokenizer),
        )
        prompts = self._prompts(examples)
        asked = [
            Asked(id=example.id, prompt=ids, seed=seed_of(self.args.seed, example.id))
            for example, ids in zip(examples, prompts, strict=True)
        ]
        drawing = Drawing(max_tokens=self.args.max_new_tokens, temperature=TEMPERATURE, top_p=TOP_P, stop_ids=stops)
        found = []
        for ids, answer in zip(prompts, write(asked, drawing), strict=True):
            text = answer.text if answer.ids is None else decode_response(tokenizer, answer.ids, stops)
            text = opened_thought(tokenizer, ids) + text
            own = None if teacher.reads_text else answer.ids
            found.append(TeacherAnswer(text=text, response_ids=own, finished=answer.finished))
        return found
