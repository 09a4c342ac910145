"""From records to groups of token ids, for GRKDTrainer; says what it leaves out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from grkd.training.groups_of_responses import chosen

if TYPE_CHECKING:
    from grkd.training.grkd_trainer import GRKDConfig


class RecordEncoder:
    """From records to groups of token ids; says what it leaves out."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        student: Any,
        objective: Objective,
        args: "GRKDConfig",
        *,
        teacher: Any = None,
    ) -> None:
        self.tokenizer, self.objective, self.args = tokenizer, objective, args
        self.stop_ids = stop_token_ids(tokenizer, student.generation_config)
        self.pad_token_id = self.stop_ids[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        limits = [args.max_length, context_length(student), None if teacher is None else context_length(teacher)]
        self.limit = min((limit for limit in limits if limit is not None), default=None)
        # What a prompt must leave for the answers that are written in training.
        self.new_tokens = args.max_new_tokens if objective.on_policy else 0
        if self.limit is not None and self.new_tokens >= self.limit:
            raise UserError(f"max_new_tokens {self.new_tokens} leaves no room for a prompt in {self.limit} tokens")
        if args.train_on_turns not in ("all", "last"):
            raise UserError(f"train_on_turns must be all or last, got {args.train_on_turns!r}")
        if isinstance(args.chat_template_kwargs, str):
            raise UserError(f"chat_template_kwargs must be a JSON object, got {args.chat_template_kwargs!r}")
        read_template_options(args.chat_template_kwargs, "args")
        self.notes: Counter[str] = Counter()
        if objective.needs_reference:
            raise UserError(f"{args.method} compares the student with itself before training; give it to `grkd run`")

    def __call__(self, records: Any, where: str) -> Any:
        """Groups of token ids; None for no records. The first process of a launch makes them for all.

        Raises UserError where the method can learn from none of them."""
        if records is None:
            return None
        return from_main(lambda: self._encoded(records, where), f"tokenise {where}")

    def _encoded(self, records: Any, where: str) -> list[Group]:
        found: list[Group] = []
        too_long, unused, left_out = 0, 0, LeftOut()
        for example in track(self._examples(records, where), f"tokenise {where}"):
            try:
                group, dropped = self._group(example, where, left_out)
            except NotRendered as error:
                left_out.add(example.id, error.reason)
                continue
            too_long += dropped
            group = chosen(group, self.objective.trains_on) if group.items else group
            if group.items and ("row" in self.objective.levels or group.has_pair):
                found.append(group)
            else:
                unused += 1
        bound = f"{'max_length' if self.limit == self.args.max_length else 'the context of'} {self.limit}"
        if not found:
            reason = f"{too_long} responses are over {bound}" if too_long else self._wanted()
            reason = left_out.lines[0] if left_out and not too_long else reason
            raise UserError(f"{where}: {self.args.method} can learn from none of its records; {reason}")
        for count, what in ((too_long, f"response{'s' * (too_long != 1)} over {bound}"), (unused, "without a use")):
            if count:
                words = what if what != "without a use" else f"record{'s' * (count != 1)}"
                console.print(f"[yellow]{escape(where)}: {count} {words} left out[/yellow]", soft_wrap=True)
        left_out.say(where)
        self._say_notes(where)
        return found

    def _examples(self, records: Any, where: str) -> list[Example]:
        """The prompts of the records, without a last unanswered one where other turns are learnt."""
        turns: Any = self.args.train_on_turns
        if isinstance(records, str | Path):
            examples = read_examples(Path(records), turns=turns)
        elif isinstance(records, dict) or not isinstance(records, Iterable):
            raise UserError(f"{where}: expected records (dicts), a Dataset or a path, got a {type(records).__name__}")
        else:
            examples = gathered(records, where, turns=turns, unique=False)
        options = self.args.chat_template_kwargs
        assert not isinstance(options, str)
        return [
            replace(example, template_options={**options, **(example.template_options or {})}) if options else example
            for example in examples
            if example.answers or example.record is None
        ]

    def _group(self, example: Example, where: str, left_out: LeftOut) -> tuple[Group, int]:
        """The example's responses as token ids, and how many of them are too long."""
        if not example.answers:
            raise UserError(f"{where}: example {example.id}: a prompt without a response; {self._wanted()}")
        scores = example.scores or [0.0] * len(example.answers)
        prompt_ids = encode_prompt(self.tokenizer, example, system=self.args.system)
        items, kept, too_long = [], [], 0
        for place, (answer, score) in enumerate(zip(example.answers, scores, strict=True)):
            name = f"{example.id}#{place}"
            alone = replace(example, completion=answer, responses=None, scores=None)
            try:
                ids = encode_response(
                    self.tokenizer, alone, stop_ids=self.stop_ids, system=self.args.system, notes=self.notes
                )
            except NotRendered as error:
                if len(example.answers) == 1:
                    raise
                left_out.add(name, error.reason)
                continue
            if self.limit is None or len(prompt_ids) + max(len(ids), self.new_tokens) <= self.limit:
                items.append(Item(name, prompt_ids, ids))
                kept.append(score)
            else:
                too_long += 1
        sources = ("data",) * len(items)
        return Group(id=example.id, items=tuple(items), teacher_scores=tuple(kept), sources=sources), too_long

    def _say_notes(self, where: str) -> None:
        for note, count in self.notes.items():
            console.print(f"[yellow]{escape(where)}: {count} {escape(note)}[/yellow]", soft_wrap=True)
        self.notes.clear()

    def _wanted(self) -> str:
        if "response" in self.objective.levels:
            return "give responses with different teacher_scores, or chosen and rejected"
        if self.objective.trains_on == "teacher":
            return "responses of the teacher are sampled by `grkd run`"
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


def as_path(records: Any) -> Any:
    return Path(records) if isinstance(records, str) else records


def say_shared(train: list[Group] | None, evaluation: Any) -> None:
    """One line for evaluation prompts that are also trained on."""
    sets = evaluation if isinstance(evaluation, dict) else {"": evaluation}
    known = {tuple(group.items[0].prompt_ids) for group in train or ()}
    for name, groups in sets.items():
        shared = sum(tuple(group.items[0].prompt_ids) in known for group in groups or ())
        if shared:
            where = f"eval_dataset[{name!r}]" if name else "eval_dataset"
            console.print(
                f"[yellow]{escape(where)}: {shared} of {len(groups)} prompts are also in train_dataset[/yellow]",
                soft_wrap=True,
            )
