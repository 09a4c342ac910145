"""GRKDTrainer: any method of grkd behind the arguments that transformers' and TRL's trainers have."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from grkd import objectives
from grkd.console import console, track
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Group, Item, check_head_size, vocabulary_size
from grkd.data.prompts import Example, example_of
from grkd.errors import UserError
from grkd.models.load import check_same_vocabulary, context_length, load_language_model, load_tokenizer
from grkd.objectives import Objective
from grkd.training.callbacks import FiniteSteps
from grkd.training.language_rows import LanguageRows, chosen
from grkd.training.on_policy import on_policy_sampler
from grkd.training.trainer import DistillationTrainer


@dataclass
class GRKDConfig(TrainingArguments):
    """transformers.TrainingArguments, and what a distillation needs besides.

    method, method_options: see `grkd methods`. max_length: of prompt and response in tokens; longer responses are left
    out and counted. max_new_tokens: of the responses that on-policy methods sample. system: a system message before
    every prompt without its own. fused_head, steps_per_generation: see DistillationTrainer.
    per_device_train_batch_size counts prompts, each with all its responses.
    """

    method: str = "grkd"
    method_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "options of the method"})
    teacher_model_name_or_path: str | None = None
    max_length: int | None = 1024
    max_new_tokens: int = 256
    system: str | None = None
    fused_head: bool | None = None
    steps_per_generation: int = 1
    warmup_steps: float = 0.0  # transformers' default, 0, is no float
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "method_options"]


class GRKDTrainer(DistillationTrainer):
    """Distils teacher_model into model, by tokens or by scored responses.

        GRKDTrainer(model=student, teacher_model=teacher, args=GRKDConfig(...), train_dataset=records,
                    processing_class=tokenizer).train()

    model, teacher_model: a model, or the name or folder of one. train_dataset, eval_dataset: records (a list of dicts,
    a datasets.Dataset) with `messages`, `prompt` + `completion`, `prompt` + `responses` (+ `teacher_scores`), or
    `prompt` + `chosen` / `rejected`, as grkd.data.prompts.read_examples and TRL know them; prompts and completions can
    be messages. The teacher runs in every step: `grkd run` also samples responses and caches the teacher's signal.
    peft_config: of peft, for LoRA. objective: in place of args.method.
    The other arguments are those of transformers.Trainer.
    Raises UserError for methods that need what the records lack (a teacher's responses, scores, a reference), other
    vocabularies, and records that are malformed.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        teacher_model: PreTrainedModel | str | None = None,
        args: GRKDConfig | TrainingArguments | None = None,
        *,
        train_dataset: Iterable[dict[str, Any]] | None = None,
        eval_dataset: Iterable[dict[str, Any]] | dict[str, Iterable[dict[str, Any]]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        args = GRKDConfig() if args is None else args
        if not isinstance(args, GRKDConfig):
            raise UserError("args must be a GRKDConfig: transformers' TrainingArguments with a method and its options")
        if kwargs.get("compute_metrics") is not None:
            raise UserError("compute_metrics is never called: evaluation gives the loss; `grkd eval` measures models")
        args.logging_nan_inf_filter = False  # a loss that is no number must be seen
        args.dataloader_pin_memory &= args.device.type == "cuda"  # elsewhere PyTorch warns of it
        objective = _objective(args) if objective is None else objective
        name = model if isinstance(model, str) else str(model.config.name_or_path)
        tokenizer = load_tokenizer(name) if processing_class is None else processing_class
        student = load_language_model(model, dtype=torch.float32).train() if isinstance(model, str) else model
        teacher = self._teacher(teacher_model, objective, args, tokenizer)
        encode = _Encode(tokenizer, student, objective, args)
        rows = LanguageRows(
            pad_token_id=encode.pad_token_id,
            vocabulary=check_head_size(student, tokenizer, role="student"),
            teacher=teacher,
            trains_on=objective.trains_on,
            sampler=on_policy_sampler(
                teacher,
                max_new_tokens=args.max_new_tokens,
                stop_ids=encode.stop_ids,
                pad_token_id=encode.pad_token_id,
                vocabulary=vocabulary_size(tokenizer),
            )
            if objective.on_policy
            else None,
        )
        if peft_config is not None:
            from peft import get_peft_model

            student = get_peft_model(student, peft_config)
        super().__init__(
            student,
            args,
            objective=objective,
            rows=rows,
            fused_head=args.fused_head,
            steps_per_generation=args.steps_per_generation,
            train_dataset=None if train_dataset is None else encode(train_dataset, "train_dataset"),
            eval_dataset=_encoded(encode, eval_dataset, "eval_dataset"),
            processing_class=tokenizer,
            **kwargs,
        )
        self.add_callback(FiniteSteps())
        self._encode = encode

    def evaluate(self, eval_dataset: Any = None, *arguments: Any, **options: Any) -> dict[str, float]:
        """As transformers' Trainer; eval_dataset: records as in the constructor, or a dict of them by name."""
        return super().evaluate(_encoded(self._encode, eval_dataset, "eval_dataset"), *arguments, **options)

    @staticmethod
    def _teacher(
        teacher: PreTrainedModel | str | None,
        objective: Objective,
        args: GRKDConfig,
        tokenizer: PreTrainedTokenizerBase,
    ) -> PreTrainedModel | None:
        """The teacher of tokens, in evaluation mode; None where the method compares responses alone."""
        teacher = args.teacher_model_name_or_path if teacher is None else teacher
        if not (objective.needs_teacher and "row" in objective.levels):
            return None
        if teacher is None:
            raise UserError(f"{args.method} learns from a teacher's scores of tokens; give teacher_model")
        if isinstance(teacher, str):
            check_same_vocabulary(load_tokenizer(teacher), tokenizer)
            on_gpu = args.device.type == "cuda"
            loaded = load_language_model(teacher, dtype=torch.bfloat16 if on_gpu else torch.float32)
        else:
            loaded = teacher
        check_head_size(loaded, tokenizer, role="teacher")
        return loaded  # LanguageRows freezes it


def _encoded(encode: "_Encode", records: Any, where: str) -> Any:
    """Records as groups of token ids; a dict of several sets by name; a name or what is encoded stays."""
    if records is None or isinstance(records, str):
        return records
    if isinstance(records, dict):
        return {name: _encoded(encode, own, f"{where}[{name!r}]") for name, own in records.items()}
    if isinstance(records, list) and records and isinstance(records[0], Group):
        return records
    return encode(records, where)


def _objective(args: GRKDConfig) -> Objective:
    options = args.method_options or {}
    if isinstance(options, str):
        raise UserError(f"method_options must be a JSON object, got {options!r}")
    return objectives.load(args.method, **options)


class _Encode:
    """From records to groups of token ids; says what it leaves out."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel, objective: Objective, args: GRKDConfig
    ) -> None:
        self.tokenizer, self.objective, self.args = tokenizer, objective, args
        self.stop_ids = stop_token_ids(tokenizer, student.generation_config)
        self.pad_token_id = self.stop_ids[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        limits = [args.max_length, context_length(student)]
        self.limit = min((limit for limit in limits if limit is not None), default=None)
        # What a prompt must leave for the answers that are written in training.
        self.new_tokens = args.max_new_tokens if objective.on_policy else 0
        if self.limit is not None and self.new_tokens >= self.limit:
            raise UserError(f"max_new_tokens {self.new_tokens} leaves no room for a prompt in {self.limit} tokens")
        if objective.needs_reference:
            raise UserError(f"{args.method} compares the student with itself before training; give it to `grkd run`")

    def __call__(self, records: Iterable[dict[str, Any]], where: str) -> list[Group]:
        found, too_long, unused = [], 0, 0
        for number, record in enumerate(track(records, f"tokenise {where}")):
            example = example_of(
                _plain(record, f"{where}[{number}]"), default_id=str(number), where=f"{where}[{number}]"
            )
            group = self._group(example, f"{where}[{number}]")
            too_long += len(example.answers) - len(group.items)
            group = chosen(group, self.objective.trains_on)
            if group.items and ("row" in self.objective.levels or len(set(group.teacher_scores)) > 1):
                found.append(group)
            else:
                unused += 1
        bound = "max_length" if self.limit == self.args.max_length else "the context of"
        if not found:
            raise UserError(f"{where}: {self.args.method} can learn from none of its records; {self._wanted()}")
        for count, what in ((too_long, f"responses over {bound} {self.limit}"), (unused, "records")):
            if count:
                console.print(f"[yellow]{where}: {count} {what} left out[/yellow]")
        return found

    def _group(self, example: Example, where: str) -> Group:
        if not example.answers:
            raise UserError(f"{where}: a prompt without a response; {self._wanted()}")
        scores = example.scores or [0.0] * len(example.answers)
        prompt_ids = encode_prompt(self.tokenizer, example, system=self.args.system)
        items, kept = [], []
        for place, (answer, score) in enumerate(zip(example.answers, scores, strict=True)):
            alone = replace(example, completion=answer, responses=None, scores=None)
            ids = encode_response(self.tokenizer, alone, stop_ids=self.stop_ids, system=self.args.system)
            if self.limit is None or len(prompt_ids) + max(len(ids), self.new_tokens) <= self.limit:
                items.append(Item(f"{example.id}#{place}", prompt_ids, ids))
                kept.append(score)
        return Group(id=example.id, items=tuple(items), teacher_scores=tuple(kept), sources=("data",) * len(items))

    def _wanted(self) -> str:
        if "response" in self.objective.levels:
            return "give responses with different teacher_scores, or chosen and rejected"
        if self.objective.trains_on == "teacher":
            return "responses of the teacher are sampled by `grkd run`"
        return "give a completion, responses, or messages that end with an assistant turn"


def _plain(record: dict[str, Any], where: str) -> dict[str, Any]:
    """The record with conversations where TRL puts them moved to where read_examples wants them.

    Raises UserError for a completion that does not end with the assistant, and pairs with different prompts.
    """
    record = dict(record)
    for key in ("id", "prompt", "completion"):  # columns that a data set has for other records
        if record.get(key) is None:
            record.pop(key, None)
    if isinstance(record.get("prompt"), list):
        record["messages"] = record.pop("prompt")
    if isinstance(record.get("completion"), list) and record["completion"]:
        *turns, last = record["completion"]
        if last.get("role", "assistant") != "assistant" or (turns and not isinstance(record.get("messages"), list)):
            raise UserError(
                f"{where}: a completion of messages must end with the assistant's, after a prompt of messages"
            )
        if turns:
            record["messages"] = [*record["messages"], *turns]
        record["completion"] = last.get("content")
    pair = record.get("chosen"), record.get("rejected")
    conversation = pair[0]
    if isinstance(conversation, list) and len(conversation) > 1 and not {"prompt", "messages"} & record.keys():
        if isinstance(pair[1], list) and pair[1][:-1] != conversation[:-1]:
            raise UserError(f"{where}: chosen and rejected answer different prompts")
        record["messages"] = conversation[:-1]
    return record
