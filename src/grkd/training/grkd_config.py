"""GRKDConfig: transformers' TrainingArguments, and what a distillation needs besides."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import TrainingArguments

from grkd.errors import UserError


@dataclass
class RecordArguments:
    """How records become token ids.

    max_length: of prompt and response in tokens; longer responses are left out and counted.
    system: a system message before every prompt without its own.
    train_on_turns: "all" assistant turns of a conversation, or the "last".
    chat_template_kwargs: variables of the chat template, such as enable_thinking; a record's own come first.
    train_split, eval_split: the splits of a DatasetDict.
    """

    max_length: int | None = 1024
    system: str | None = None
    train_on_turns: str = "all"
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "variables of the chat template"}
    )
    train_split: str | None = None
    eval_split: str | None = None


@dataclass
class SamplingArguments:
    """Responses that are sampled from the student in training, at temperature 1 over the whole vocabulary.

    max_new_tokens: per response.
    num_generations: responses per prompt in a group that rankers order.
    stored_share: share of the prompts that keep the responses made before training.
    steps_per_generation: optimiser steps whose responses are sampled at once; see DistillationTrainer.
    sampling_batch_size: responses sampled at a time; None: what the memory holds on a GPU, else 64.
    reward_weights: one weight per ranker.
    keep_groups: keep every group with its scores in output_dir/groups.
    """

    max_new_tokens: int = 256
    num_generations: int = 8
    stored_share: float = 0.0
    steps_per_generation: int = 1
    sampling_batch_size: int | None = None
    reward_weights: list[float] | None = None
    keep_groups: bool = True

    def check_sampling(self) -> None:
        """Raises UserError for numbers out of range."""
        for name in ("max_new_tokens", "steps_per_generation", "sampling_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")


@dataclass
class GRKDConfig(SamplingArguments, RecordArguments, TrainingArguments):
    """transformers.TrainingArguments, RecordArguments, SamplingArguments, and the method.

    method, method_options: see `grkd methods`.
    teacher_model_name_or_path: the teacher, where the trainer is not given one.
    teacher_placement: of a teacher given by its name on several GPUs: "whole" on each, "sharded" over them, or
    "offloaded": sharded and kept in the host's memory.
    fused_head, compile_layers: see DistillationTrainer. tokens_per_batch: see LanguageRows.
    eval_metrics: what `evaluate` measures beside the loss; see grkd.training.evaluation_metrics.
    eval_top_k: the teacher's candidates whose order is measured at every token.
    per_device_train_batch_size counts prompts, each with all its responses.
    """

    method: str = "grkd"
    method_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "options of the method"})
    teacher_model_name_or_path: str | None = None
    teacher_placement: str = "whole"
    fused_head: bool | None = None
    tokens_per_batch: int | None = None
    compile_layers: str = "auto"
    eval_metrics: list[str] | None = None
    eval_top_k: int = 16
    warmup_steps: float = 0.0  # transformers' default, 0, is no float
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "method_options"]
    _VALID_DICT_FIELDS += ["chat_template_kwargs"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sampling()
        if self.teacher_placement not in ("whole", "sharded", "offloaded"):
            raise UserError(f"teacher_placement must be whole, sharded or offloaded, got {self.teacher_placement!r}")
