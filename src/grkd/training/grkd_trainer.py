"""GRKDTrainer: any method of grkd behind the arguments that transformers' and TRL's trainers have."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from grkd import objectives
from grkd.console import console
from grkd.data.language import check_head_size, unwrapped, vocabulary_size
from grkd.data.sources import split_of
from grkd.errors import UserError
from grkd.models.adapters import apart, shares_weights
from grkd.models.attention import honour_softcap
from grkd.models.load import check_same_vocabulary, load_language_model, load_tokenizer
from grkd.models.save import stopping_config
from grkd.models.shard import shard
from grkd.objectives import Objective
from grkd.training.callbacks import FiniteSteps
from grkd.training.language_rows import LanguageRows
from grkd.training.on_policy import on_policy_sampler
from grkd.training.record_groups import RecordEncoder, as_path, encoded, say_shared
from grkd.training.trainer import DistillationTrainer


@dataclass
class GRKDConfig(TrainingArguments):
    """transformers.TrainingArguments, and what a distillation needs besides.

    method, method_options: see `grkd methods`. max_length: of prompt and response in tokens; longer responses are left
    out and counted. max_new_tokens: of the responses that on-policy methods sample. system: a system message before
    every prompt without its own. train_on_turns: "all" assistant turns of a conversation, or the "last".
    chat_template_kwargs: variables of the chat template, such as enable_thinking; a record's own come first.
    train_split, eval_split: the splits of a DatasetDict. fused_head, steps_per_generation, compile_layers: see
    DistillationTrainer. tokens_per_batch: see LanguageRows.
    teacher_placement: of a teacher given by its name on several GPUs: "whole" on each, "sharded" over them, or
    "offloaded": sharded and kept in the host's memory.
    per_device_train_batch_size counts prompts, each with all its responses.
    """

    method: str = "grkd"
    method_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "options of the method"})
    teacher_model_name_or_path: str | None = None
    teacher_placement: str = "whole"
    max_length: int | None = 1024
    max_new_tokens: int = 256
    system: str | None = None
    train_on_turns: str = "all"
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "variables of the chat template"}
    )
    train_split: str | None = None
    eval_split: str | None = None
    fused_head: bool | None = None
    steps_per_generation: int = 1
    tokens_per_batch: int | None = None
    compile_layers: str = "auto"
    warmup_steps: float = 0.0  # transformers' default, 0, is no float
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "method_options"]
    _VALID_DICT_FIELDS += ["chat_template_kwargs"]


class GRKDTrainer(DistillationTrainer):
    """Distils teacher_model into model, by tokens or by scored responses.

        GRKDTrainer(model=student, teacher_model=teacher, args=GRKDConfig(...), train_dataset=records,
                    processing_class=tokenizer).train()

    model, teacher_model: a model, or the name or folder of one. train_dataset, eval_dataset: records (a list of dicts,
    a datasets.Dataset or IterableDataset, a DatasetDict with args.train_split, the path of a file) with `messages`,
    `prompt` + `completion`, `prompt` + `responses` (+ `teacher_scores`), or `prompt` + `chosen` / `rejected`; all that
    grkd.data.records.examples_of reads.
    The teacher runs in every step: `grkd run` also samples responses and caches the teacher's signal.
    teacher_processing_class: the teacher's tokenizer, where its model carries no name to load it by.
    A teacher that is the student itself, or shares weights with it, is copied and frozen as it is then.
    peft_config: of peft, for LoRA. objective: in place of args.method.
    The other arguments are those of transformers.Trainer.
    Raises UserError for methods that need what the records lack (a teacher's responses, scores, a reference), other
    vocabularies, and records that are malformed.
    """

    def __init__(
        self,
        model: nn.Module | str,
        teacher_model: nn.Module | str | None = None,
        args: GRKDConfig | TrainingArguments | None = None,
        *,
        train_dataset: Iterable[Any] | str | Path | None = None,
        eval_dataset: Iterable[Any] | dict[str, Iterable[Any]] | str | Path | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        args = GRKDConfig() if args is None else args
        if not isinstance(args, GRKDConfig):
            raise UserError("args must be a GRKDConfig: transformers' TrainingArguments with a method and its options")
        if kwargs.get("compute_metrics") is not None:
            raise UserError("compute_metrics is never called: evaluation gives the loss; `grkd eval` measures models")
        if args.teacher_placement not in ("whole", "sharded", "offloaded"):
            raise UserError(f"teacher_placement must be whole, sharded or offloaded, got {args.teacher_placement!r}")
        args.logging_nan_inf_filter = False  # a loss that is no number must be seen
        args.dataloader_pin_memory &= args.device.type == "cuda"  # elsewhere PyTorch warns of it
        objective = _objective(args) if objective is None else objective
        name = model if isinstance(model, str) else str(getattr(model.config, "name_or_path", ""))
        tokenizer = load_tokenizer(name) if processing_class is None else processing_class
        student: Any = load_language_model(model, dtype=torch.float32).train() if isinstance(model, str) else model
        teacher = self._teacher(teacher_model, objective, args, tokenizer, teacher_processing_class)
        if teacher is not None and shares_weights(teacher, student):
            console.print("teacher_model shares weights with the student: a frozen copy of it teaches")
            teacher = apart(teacher, student)  # before adapters are put into the student
        for side in (student, teacher):
            if side is not None:
                honour_softcap(side)
        encode = RecordEncoder(tokenizer, student, objective, args, teacher=teacher)
        rows = LanguageRows(
            pad_token_id=encode.pad_token_id,
            vocabulary=check_head_size(student, tokenizer, role="student"),
            teacher=teacher,
            trains_on=objective.trains_on,
            tokens_per_batch=args.tokens_per_batch,
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
        train_groups = encode(
            split_of(train_dataset, args.train_split, "train_dataset", "args.train_split"), "train_dataset"
        )
        if isinstance(eval_dataset, dict) and args.eval_split is not None:
            eval_dataset = split_of(eval_dataset, args.eval_split, "eval_dataset", "args.eval_split")
        eval_groups = encoded(encode, as_path(eval_dataset), "eval_dataset")
        say_shared(train_groups, eval_groups)
        super().__init__(
            student,
            args,
            objective=objective,
            rows=rows,
            fused_head=args.fused_head,
            steps_per_generation=args.steps_per_generation,
            compile_layers=_compile(args.compile_layers),
            train_dataset=train_groups,
            eval_dataset=eval_groups,
            processing_class=tokenizer,
            **kwargs,
        )
        self.add_callback(FiniteSteps())
        self._encode = encode

    def evaluate(self, eval_dataset: Any = None, *arguments: Any, **options: Any) -> dict[str, float]:
        """As transformers' Trainer; eval_dataset: records as in the constructor, or a dict of them by name."""
        return super().evaluate(encoded(self._encode, eval_dataset, "eval_dataset"), *arguments, **options)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As transformers' Trainer; the generation config beside the weights stops where training stopped."""
        model: Any = unwrapped(self.model)
        own = model.generation_config
        model.generation_config = stopping_config(model, self.processing_class)
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:  # adapters are saved without it
                model.generation_config.save_pretrained(self.args.output_dir if output_dir is None else output_dir)
        finally:
            model.generation_config = own

    def predict(self, test_dataset: Any, *arguments: Any, **options: Any) -> Any:
        """As transformers' Trainer, on records: the metrics hold their loss, there are no predictions."""
        return super().predict(encoded(self._encode, test_dataset, "test_dataset"), *arguments, **options)

    @staticmethod
    def _teacher(
        teacher: nn.Module | str | None,
        objective: Objective,
        args: GRKDConfig,
        tokenizer: PreTrainedTokenizerBase,
        own_tokenizer: PreTrainedTokenizerBase | None,
    ) -> Any:
        """The teacher of tokens; None where the method compares responses alone.

        Raises UserError for another vocabulary than the student's, and for a model whose vocabulary is not known.
        """
        teacher = args.teacher_model_name_or_path if teacher is None else teacher
        if not (objective.needs_teacher and "row" in objective.levels):
            return None
        if teacher is None:
            raise UserError(f"{args.method} learns from a teacher's scores of tokens; give teacher_model")
        check_same_vocabulary(_teacher_tokenizer(teacher) if own_tokenizer is None else own_tokenizer, tokenizer)
        if isinstance(teacher, str):
            on_gpu = args.device.type == "cuda"
            loaded: Any = load_language_model(teacher, dtype=torch.bfloat16 if on_gpu else torch.float32)
            if args.teacher_placement != "whole":
                loaded = shard(loaded, args.device, offload=args.teacher_placement == "offloaded")
        else:
            loaded = teacher
        check_head_size(loaded, tokenizer, role="teacher")
        return loaded  # LanguageRows freezes it


def _teacher_tokenizer(teacher: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model, by its name. Raises UserError where it cannot be had."""
    name = teacher if isinstance(teacher, str) else str(getattr(teacher.config, "name_or_path", "") or "")
    if name:
        try:
            return load_tokenizer(name)
        except UserError as error:
            if isinstance(teacher, str):
                raise
            reason = f"its tokenizer cannot be loaded from {name!r} ({str(error)[:150]})"
    else:
        reason = "it carries no name to load its tokenizer by"
    raise UserError(f"teacher_model: {reason}; give teacher_processing_class, to be compared with the student's")


def _objective(args: GRKDConfig) -> Objective:
    options = args.method_options or {}
    if isinstance(options, str):
        raise UserError(f"method_options must be a JSON object, got {options!r}")
    return objectives.load(args.method, **options)


def _compile(given: str) -> bool | None:
    """compile_layers as DistillationTrainer takes it. A text, since command lines give texts."""
    known = {"auto": None, "true": True, "false": False}
    if (name := str(given).lower()) not in known:
        raise UserError(f"compile_layers must be auto, true or false, got {given!r}")
    return known[name]
