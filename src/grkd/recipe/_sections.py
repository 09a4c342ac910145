"""Parts of a recipe that every task has: how sections are read, types of values, methods, training, search."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from grkd.recipe._words import WHOLE_BELOW

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=WHOLE_BELOW)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0, le=1e3)]  # a learning rate
Epochs = Annotated[float, Field(gt=0, le=1e6)]
GroupSize = Annotated[int, Field(ge=1, le=4096)]
Whole = Annotated[int, Field(ge=0, lt=WHOLE_BELOW)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class IsPath:
    """Marks text that is a path: always ("file"), or if it is not a hub name ("model") or a network's ("network").

    "rankers" marks a list of rankers: the model of a reward_model in it is one.
    """

    kind: Literal["file", "model", "network", "rankers"]


FilePath = Annotated[str, Field(min_length=1), IsPath("file")]
ModelPath = Annotated[str, Field(min_length=1), IsPath("model")]
NetworkPath = Annotated[str, Field(min_length=1), IsPath("network")]
Combine = Literal["weights", "sum", "lexicographic", "votes"]
Rankers = Annotated[list[str | dict[str, Any]], IsPath("rankers")]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """What every part of a recipe is: no unknown keys, no conversion between types, finite numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Method(Section):
    """A method and its options; `label` names it in tables (default: its name), so that one method can run twice.

    rankers, combine: who orders the groups that this method samples in training; null: score.rankers.
    """

    name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    rankers: Rankers | None = None
    combine: Combine | None = None


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """One optimiser run; lengths in optimiser steps, `batch_size` in examples per device and micro-batch."""

    epochs: Epochs = 1.0
    steps: Count | None = None  # instead of epochs
    batch_size: Count = 8
    # Instead of epochs, not of classifiers: minutes of training, over which the schedules go. Not counted: answers to
    # the curve's questions, checkpoints, and the first step, which compiles kernels. What is resumed has what is left.
    minutes: Positive | None = None
    gradient_accumulation: Count = 1
    learning_rate: Rate = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: Fraction = 0.1  # share of the training
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    max_grad_norm: NonNegative = 1.0
    # Compute layers twice, which takes less memory; auto: of language models, as many as the GPU's memory asks for.
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    # On-policy methods sample for so many optimiser steps at once, before the first of them: faster, and for the later
    # steps from a student some steps old. minillm's importance weights account for that; gkd and grkd have none.
    steps_per_generation: Count = 1
    fused_head: bool | None = None  # loss from hidden states, without the logits of the whole batch; null: on a GPU
    # Language models: the responses of a micro-batch in one row without padding, in passes of at most so many tokens.
    tokens_per_batch: Count | None = None  # null: padded batches
    compile: bool | Literal["auto"] = "auto"  # language models: compile the layers; auto: on a GPU, if that pays
    # Of a student in 16 bits (student.dtype): the optimiser keeps float32 copies, in which small steps add up.
    float32_masters: bool = False
    log_every: Count = 10
    save_every: Count = 200  # steps between checkpoints, which are for going on after a kill
    report_to: str | list[str] = "none"
    extra: dict[str, Any] = field(default_factory=dict)  # any other field of transformers.TrainingArguments

    def steps_for(self, examples: int, *, processes: int = 1) -> int:
        """Optimiser steps of one training on so many examples; an epoch's last step may have fewer."""
        if self.steps is not None:
            return self.steps
        per_step = self.batch_size * self.gradient_accumulation * processes
        return max(1, math.ceil(self.epochs * math.ceil(examples / per_step)))


@dataclass(frozen=True, kw_only=True)
class Search(Section):
    """What `grkd compare` tries for every method before the final runs: the same number of trials for all.

    learning_rate and options (a method's label -> its option -> values) are lists of values. Trials are measured on a
    validation part of the training data; final runs train on all of it. A classifier's teacher that is trained here
    never sees the validation part. metric: null takes the task's own.
    """

    trials: Annotated[int, Field(ge=1, le=10_000)] = 6
    learning_rate: list[Rate] = field(default_factory=list)  # empty: training.learning_rate alone
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    metric: Text | None = None
    questions: FilePath | None = None  # language models, metric exact_match: JSONL of {"question", "answer"}
    steps_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # language models: share of a trial's steps
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
