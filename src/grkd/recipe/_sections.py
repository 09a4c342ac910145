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

    rankers, combine: who orders the groups that this method samples in training, and the stored ones beside them as far
    as score.rankers has the same; null: score.rankers.
    """

    name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    rankers: Rankers | None = None
    combine: Combine | None = None


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """Optimiser settings. A step is an optimiser step."""

    epochs: Epochs = 1.0  # passes over the training data
    steps: Count | None = None  # instead of epochs: number of optimiser steps
    batch_size: Count = 8  # examples (prompts, for language models) per device and micro-batch
    # instead of epochs: minutes of training, with schedules stretched over them (not for classifiers). Questions of the
    # curve, checkpoints and the first step, which compiles kernels, do not count. A resumed training has the rest.
    minutes: Positive | None = None
    gradient_accumulation: Count = 1  # micro-batches per optimiser step
    learning_rate: Rate = 1e-4  # peak learning rate
    schedule: Literal["linear", "cosine", "constant"] = "cosine"  # learning rate after the warm-up
    warmup: Fraction = 0.1  # fraction of training during which the learning rate rises
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0  # weight decay of the optimiser
    max_grad_norm: NonNegative = 1.0  # clip gradients to this norm; 0: off
    # recompute activations to save memory; auto: for language models, as many layers as the GPU's memory requires
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    # on-policy methods: number of optimiser steps whose responses are sampled in one call. More is faster, but later
    # steps learn from responses of a stale student. minillm corrects for this by importance weights, others do not.
    steps_per_generation: Count = 1
    fused_head: bool | None = None  # compute the loss from hidden states, without full logits; null: on a GPU
    # language models: pack a micro-batch without padding, at most this many tokens per forward pass; null: pad
    tokens_per_batch: Count | None = None
    compile: bool | Literal["auto"] = "auto"  # language models: compile layers; auto: on a GPU, if training is long
    # a student in 16 bits (student.dtype): the optimiser keeps float32 copies, so that small updates are not lost
    float32_masters: bool = False
    log_every: Count = 10  # steps between log entries
    save_every: Count = 200  # steps between checkpoints, from which an interrupted training resumes
    report_to: str | list[str] = "none"  # tensorboard, wandb, trackio, ... as in transformers
    extra: dict[str, Any] = field(default_factory=dict)  # any other field of transformers.TrainingArguments

    def steps_for(self, examples: int, *, processes: int = 1) -> int:
        """Optimiser steps of one training on so many examples; an epoch's last step may have fewer."""
        if self.steps is not None:
            return self.steps
        per_step = self.batch_size * self.gradient_accumulation * processes
        return max(1, math.ceil(self.epochs * math.ceil(examples / per_step)))


@dataclass(frozen=True, kw_only=True)
class Search(Section):
    """The search of `grkd compare`: the same number of trials for every method, before the final runs.

    Trials are measured on a validation part of the training data; final runs train on all of it. If the recipe trains a
    classifier as the teacher, that teacher never sees the validation part.
    """

    trials: Annotated[int, Field(ge=1, le=10_000)] = 6  # trials per method
    learning_rate: list[Rate] = field(default_factory=list)  # values to try; empty: only training.learning_rate
    # values to try, by method's label and option: {kd: {temperature: [1, 2]}}
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    metric: Text | None = None  # metric to optimise; null: the task's own
    questions: FilePath | None = None  # language models, metric exact_match: JSONL of {"question", "answer"}
    steps_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # language models: steps of a trial, relative to a final run
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the training data used for validation
