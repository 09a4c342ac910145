"""A GRKDTrainer's teacher behind a server as the writer of responses, for methods that learn from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.data.chat import decode_response, encode_prompt, stop_token_ids
from grkd.data.language import vocabulary_size
from grkd.data.prompts import Example
from grkd.data.thoughts import opening
from grkd.ranks import from_main
from grkd.served import ServedTeacher
from grkd.served.writer import Asked, Drawing, ServedWriter, seed_of
from grkd.teacher.turns import turns_of
from grkd.training.given_teachers import Given
from grkd.training.grkd_config import GRKDConfig
from grkd.training.teacher_answers import TEMPERATURE, TOP_P, Answers, TeacherAnswer, TeacherAnswers
from grkd.training.teacher_side import TeacherSide

_TAIL = 16  # tokens at the end of a prompt, in which it may open a thought


def answers_of(sides: Sequence[TeacherSide], args: GRKDConfig, stop_ids: Sequence[int]) -> Answers:
    """Whoever writes the teacher's responses: the model in this process, its server, or several in turns."""
    if len(sides) == 1:
        return _of_one(sides[0], args, stop_ids)
    given = {side.given.name: side.given for side in sides}
    return SeveralAnswers(given, {side.given.name: _of_one(side, args, stop_ids) for side in sides})


def _of_one(side: TeacherSide, args: GRKDConfig, stop_ids: Sequence[int]) -> "TeacherAnswers | ServedAnswers":
    common: dict[str, Any] = {
        "stop_ids": stop_ids,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "folder": Path(str(args.output_dir)) / "teacher_responses",
        "system": args.system,
    }
    if side.served is not None:
        return ServedAnswers(teacher=side.served, **common)
    return TeacherAnswers(side=side, batch_size=args.sampling_batch_size, device=args.device, **common)


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


@dataclass(frozen=True, kw_only=True)
class ServedAnswers:
    """One response per prompt from a served teacher, as TeacherAnswers; each is kept as it comes."""

    teacher: ServedTeacher
    stop_ids: Sequence[int]
    max_new_tokens: int
    seed: int
    folder: Path
    system: str | None = None

    def __call__(self, examples: Sequence[Example], where: str) -> list[TeacherAnswer]:
        """One response per example. Raises UserError unless all are answered."""
        return from_main(lambda: self._answered(examples), f"{where}: the teacher's responses")

    def _answered(self, examples: Sequence[Example]) -> list[TeacherAnswer]:
        teacher, tokenizer = self.teacher, self.teacher.tokenizer
        stops = tuple(stop_token_ids(tokenizer) if teacher.reads_text else self.stop_ids)
        write = ServedWriter(
            teacher.server.endpoint,
            folder=self.folder,
            concurrency=teacher.concurrency,
            vocabulary=vocabulary_size(tokenizer),
        )
        prompts = [encode_prompt(tokenizer, example, system=self.system) for example in examples]
        asked = [
            Asked(id=example.id, prompt=ids, seed=seed_of(self.seed, example.id))
            for example, ids in zip(examples, prompts, strict=True)
        ]
        drawing = Drawing(max_tokens=self.max_new_tokens, temperature=TEMPERATURE, top_p=TOP_P, stop_ids=stops)
        found = []
        for ids, answer in zip(prompts, write(asked, drawing), strict=True):
            text = answer.text if answer.ids is None else decode_response(tokenizer, answer.ids, stops)
            text = opening(str(tokenizer.decode(ids[-_TAIL:], skip_special_tokens=False))) + text
            own = None if teacher.reads_text else answer.ids
            found.append(TeacherAnswer(text=text, response_ids=own, finished=answer.finished))
        return found
