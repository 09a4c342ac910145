"""From records to groups of token ids, for GRKDTrainer; says what it leaves out."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from grkd.console import console, track
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.conversation import read_template_options
from grkd.data.language import Group, Item
from grkd.data.left_out import LeftOut
from grkd.data.prompts import Example
from grkd.data.sources import gathered, read_examples
from grkd.data.template import NotRendered
from grkd.errors import UserError
from grkd.models.load import context_length
from grkd.objectives import Objective
from grkd.ranks import from_main
from grkd.training.grkd_config import GRKDConfig
from grkd.training.groups_before import NO_RESPONSE
from grkd.training.groups_of_responses import chosen, evaluation_sets
from grkd.training.order_of_records import check_order_given, check_order_used
from grkd.training.teacher_answers import Answers, TeacherAnswer


class RecordEncoder:
    """From records to groups of token ids; says what it leaves out.

    student, teachers: whose context limits a record. samples: the method answers prompts anew in training, so a prompt
    needs no response. keeps_columns: groups hold their prompt and the record's other columns, as with samples.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        student: Any,
        objective: Objective,
        args: GRKDConfig,
        *,
        teachers: Sequence[Any] = (),
        samples: bool = False,
        keeps_columns: bool = False,
    ) -> None:
        self.tokenizer, self.objective, self.args = tokenizer, objective, args
        self.samples = samples
        self.teacher_answers: Answers | None = None  # the teacher's responses, for methods that learn from them
        self.keeps_columns = samples or keeps_columns
        self.keeps_prompts = self.keeps_columns or (args.report_files and args.report_prompts > 0)
        self.read: Collection[str] | None = ()  # columns of the records that rankers read; None: any
        self.stop_ids = stop_token_ids(tokenizer, student.generation_config)
        self.pad_token_id = self.stop_ids[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        limits = [args.max_length, context_length(student), *map(context_length, teachers)]
        self.limit = min((limit for limit in limits if limit is not None), default=None)
        self.new_tokens = args.max_new_tokens if samples else 0
        if self.limit is not None and self.new_tokens >= self.limit:
            raise UserError(f"max_new_tokens {self.new_tokens} leaves no room for a prompt in {self.limit} tokens")
        if isinstance(args.chat_template_kwargs, str):
            raise UserError(f"chat_template_kwargs must be a JSON object, got {args.chat_template_kwargs!r}")
        read_template_options(args.chat_template_kwargs, "args")
        self.notes: Counter[str] = Counter()

    def __call__(self, records: Any, where: str) -> Any:
        """Groups of token ids; None for no records. The first process of a launch makes them for all.

        Raises UserError if the method can learn from none of them."""
        if records is None:
            return None
        if self.teacher_answers is None:
            return from_main(lambda: self._encoded(self._examples(records, where), where), f"tokenise {where}")
        # The teacher answers on every process: its layers may be spread over them.
        examples = self._examples(records, where)
        answers = self.teacher_answers(examples, where)
        return from_main(lambda: self._encoded(examples, where, answers), f"tokenise {where}")

    def _encoded(
        self, examples: list[Example], where: str, answers: Sequence[TeacherAnswer] | None = None
    ) -> list[Group]:
        found: list[Group] = []
        too_long, unused, left_out = 0, 0, LeftOut()
        if not self.samples and self.teacher_answers is None:
            check_order_used(examples, self.objective, self.args, where)
        for number, example in enumerate(track(examples, f"tokenise {where}")):
            try:
                group, dropped = self._group(example, where, left_out, answers[number] if answers else None)
            except NotRendered as error:
                left_out.add(example.id, error.reason)
                continue
            too_long += dropped
            if group.items and not self.samples and self.objective.trains_on not in ("best", "ends"):
                group = chosen(group, self.objective.trains_on)  # of best and ends all are measured
            # A method over tokens learns from any response, others from an order.
            if group.items and (self.samples or "row" in self.objective.levels or group.has_pair):
                found.append(group)
            else:
                unused += 1
        bound = f"{'max_length' if self.limit == self.args.max_length else 'the context of'} {self.limit}"
        if not found:
            if too_long:
                reason = f"{too_long} responses are over {bound}"
            else:
                reason = left_out.lines[0] if left_out else self._wanted()
            raise UserError(f"{where}: {self.args.method} can learn from none of its records; {reason}")
        if too_long:
            _say(where, f"{too_long} response{'s' * (too_long != 1)} over {bound} left out")
        if unused:
            _say(where, f"{unused} record{'s' * (unused != 1)} left out")
        if not self.samples:
            check_order_given(found, self.objective, self.args, where)
        left_out.say(where)
        for note, count in self.notes.items():
            _say(where, f"{count} {note}")
        self.notes.clear()
        return found

    def _examples(self, records: Any, where: str) -> list[Example]:
        """The prompts of the records, without a last unanswered one where other turns are learnt."""
        turns = self.args.train_on_turns
        if isinstance(records, str | Path):
            examples = read_examples(Path(records), turns=turns, read=self.read)
        elif isinstance(records, dict) or not isinstance(records, Iterable):
            raise UserError(f"{where}: expected records (dicts), a Dataset or a path, got a {type(records).__name__}")
        else:
            examples = gathered(records, where, turns=turns, unique=False, read=self.read)
        options = self.args.chat_template_kwargs
        assert not isinstance(options, str)
        answered_later = self.samples or self.teacher_answers is not None
        return [
            example.with_template_options(options or {})
            for example in examples
            if example.answers or example.record is None or answered_later
        ]

    def _group(
        self, example: Example, where: str, left_out: LeftOut, answer: TeacherAnswer | None
    ) -> tuple[Group, int]:
        """The example's responses as token ids, and how many of them are too long."""
        columns = {"prompt": example.asked(self.args.system)} if self.keeps_prompts else None
        if self.keeps_columns:
            columns = {**example.columns, **(columns or {})}
        prompt_ids = encode_prompt(self.tokenizer, example, system=self.args.system)
        if answer is not None:
            ids = [self._ids_of_teacher(example, answer)]
            sources, scores = ["teacher"], [0.0]
        elif not example.answers and self.samples:
            ids, sources, scores = [[self.stop_ids[0]]], [NO_RESPONSE], [0.0]
        else:
            ids, scores = self._ids_of_data(example, where, left_out)
            sources = ["data"] * len(ids)
        # A prompt must leave room for the answers that are written in training.
        ends = [len(prompt_ids) + max(len(response), self.new_tokens) for response in ids]
        kept = [at for at, end in enumerate(ends) if self.limit is None or end <= self.limit]
        group = Group(
            id=example.id,
            items=tuple(Item(f"{example.id}#{place}", prompt_ids, ids[at]) for place, at in enumerate(kept)),
            teacher_scores=tuple(scores[at] for at in kept),
            sources=tuple(sources[at] for at in kept),
            columns=columns,
        )
        return group, len(ids) - len(kept)

    def _ids_of_data(self, example: Example, where: str, left_out: LeftOut) -> tuple[list[list[int]], list[float]]:
        if not example.answers:
            raise UserError(f"{where}: example {example.id}: a prompt without a response; {self._wanted()}")
        given = example.scores or [0.0] * len(example.answers)
        found, scores = [], []
        for place, (answer, score) in enumerate(zip(example.answers, given, strict=True)):
            alone = replace(example, completion=answer, responses=None, scores=None)
            try:
                found.append(self._response_ids(alone))
                scores.append(score)
            except NotRendered as error:
                if len(example.answers) == 1:
                    raise
                left_out.add(f"{example.id}#{place}", error.reason)
        return found, scores

    def _ids_of_teacher(self, example: Example, answer: TeacherAnswer) -> list[int]:
        if answer.response_ids is None:  # of another vocabulary
            ids = self._response_ids(replace(example, completion=answer.text, responses=None, scores=None))
            return ids if answer.finished or len(ids) < 2 else ids[:-1]
        ids = answer.response_ids
        if answer.finished and ids[-1] not in self.stop_ids:  # ended as the teacher alone ends
            return [*ids[:-1], self.stop_ids[0]]
        return ids

    def _response_ids(self, example: Example) -> list[int]:
        return encode_response(
            self.tokenizer, example, stop_ids=self.stop_ids, system=self.args.system, notes=self.notes
        )

    def _wanted(self) -> str:
        if "response" in self.objective.levels:
            return "give responses with different teacher_scores, or chosen and rejected, or rankers="
        return "give a completion, responses, or messages that end with an assistant turn"


def encoded(encode: RecordEncoder, records: Any, where: str) -> Any:
    """Records as groups of token ids; a dict of several sets by name; a name or what is encoded stays."""
    if records is None or isinstance(records, str):
        return records
    if isinstance(records, dict):
        return {name: encoded(encode, own, f"{where}[{name!r}]") for name, own in records.items()}
    if isinstance(records, list) and records and isinstance(records[0], Group):
        return records
    return encode(records, where)


def say_shared(train: list[Group] | None, evaluation: Any) -> None:
    """One line for evaluation prompts that are also trained on."""
    known = {tuple(group.items[0].prompt_ids) for group in train or ()}
    for where, groups in evaluation_sets(evaluation).items():
        if shared := sum(tuple(group.items[0].prompt_ids) in known for group in groups):
            _say(where, f"{shared} of {len(groups)} prompts are also in train_dataset")


def _say(where: str, line: str) -> None:
    console.print(f"[yellow]{escape(f'{where}: {line}')}[/yellow]", soft_wrap=True)
