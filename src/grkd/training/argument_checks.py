"""Arguments of GRKDConfig and GRKDTrainer of another type or out of range: one line, before anything is loaded."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from grkd.errors import UserError, nearest
from grkd.objectives import Objective

_MOST = 1e9
# Lowest and highest value; transformers checks none of its own here.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_length", "eval_top_k"), (2, _MOST)),
    **dict.fromkeys(
        ("max_new_tokens", "num_generations", "steps_per_generation", "sampling_batch_size", "tokens_per_batch"),
        (1, _MOST),
    ),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, _MOST)),
    **dict.fromkeys(("dataloader_num_workers", "report_prompts"), (0, 1e6)),
    "gradient_accumulation_steps": (1, 1e6),
    "stored_share": (0, 1),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "num_train_epochs", "warmup_steps"), (0, _MOST)),
    "learning_rate": (0, 1e38),
    "seed": (0, 2**32 - 1),
}
_READ_AS_TEXT = ("compile_layers",)  # a text or a truth value, read by GRKDConfig.layers_compiled
# Arguments of transformers' Trainer whose place a method, its rows and records take.
_OURS = {
    "compute_loss_func": "the loss is the method's; give a method of your own as objective",
    "data_collator": "batches are made from records; give records as train_dataset",
    "model_init": "give model",
    "formatting_func": "records are rendered by the chat template; give them as train_dataset",
}

_WITHOUT_EFFECT = {
    "label_smoothing_factor": "the loss is the method's",
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "an evaluation computes as the training does"),
}


def check_config(config: TrainingArguments) -> None:
    """Raises UserError for a field of GRKDConfig of another type, out of its range, or without an effect."""
    for name, validate in _validators(type(config)).items():
        value = getattr(config, name)
        try:
            validate(value, strict=True)
        except ValidationError as error:
            words = error.errors()[0]["msg"].removeprefix("Input should be ").replace("'", "")
            raise UserError(f"{name} must be {words}, got {_shown(value)}") from None
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name, None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low <= value <= high):  # neither does NaN lie between
            raise UserError(f"{name} must be a number from {low:g} to {high:g}, got {_shown(value)}")
    for name, why in _WITHOUT_EFFECT.items():
        if getattr(config, name):
            raise UserError(f"{name} would do nothing: {why}; leave it out")
    if config.fp16 and config.device.type == "cpu":
        raise UserError("fp16 would do nothing on a CPU; leave it out, or set bf16")


def check_arguments(
    *,
    model: Any,
    teacher_model: Any,
    tokenizers: Mapping[str, Any],
    teacher_cache: Any,
    peft_config: Any,
    objective: Any,
    others: Mapping[str, Any],
) -> None:
    """Raises UserError for what GRKDTrainer cannot take. tokenizers: by the argument's name. others: its **kwargs."""
    if not _is_model(model):
        raise UserError(f"model must be a model of transformers or its name, got {_shown(model)}")
    several = teacher_model if isinstance(teacher_model, list | tuple) else [teacher_model]
    if teacher_model is not None and not all(_is_model(one) or isinstance(one, dict) for one in several):
        expected = "a model of transformers, its name, a dict of a served one, or a list of these"
        raise UserError(f"teacher_model must be {expected}, got {_shown(teacher_model)}")
    for name, given in tokenizers.items():
        if given is not None and not isinstance(given, PreTrainedTokenizerBase):
            raise UserError(f"{name} must be a tokenizer of transformers, got {_shown(given)}")
    if teacher_cache is not None and (isinstance(teacher_cache, bool | int | float) or not teacher_cache):
        raise UserError(f"teacher_cache must be a folder of `grkd cache build`, got {_shown(teacher_cache)}")
    if not isinstance(objective, Objective):
        raise UserError(f"objective must be a method (grkd.objectives.load), got {_shown(objective)}")
    if peft_config is not None and not hasattr(peft_config, "peft_type"):
        raise UserError(f"peft_config must be a peft.PeftConfig, got {_shown(peft_config)}")
    if getattr(peft_config, "is_prompt_learning", False):
        kind = getattr(peft_config.peft_type, "value", peft_config.peft_type)
        raise UserError(
            f"peft_config: {kind} puts learnt tokens before the prompt, and batches are made without them; give LoRA, "
            "or another adapter of weights"
        )
    if objective.needs_features:
        raise UserError(
            f"{type(objective).__name__}: the method reads a classifier's features, a language model has none"
        )
    _check_others(others)


def _check_others(others: Mapping[str, Any]) -> None:
    theirs = inspect.signature(Trainer.__init__).parameters
    known = [*(name for name in theirs if name not in ("self", "model", "args", *_OURS)), "time_limit"]
    for name, given in others.items():
        if name in _OURS and given is not None:
            raise UserError(f"{name} would do nothing: {_OURS[name]}")
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"GRKDTrainer has no argument {name!r}; {hint}"[:380])
    for name in ("compute_metrics", "preprocess_logits_for_metrics"):
        if others.get(name) is not None and not callable(others[name]):
            raise UserError(f"{name} must be a function, got {_shown(others[name])}")
    callbacks = others.get("callbacks")
    kinds = [one if isinstance(one, type) else type(one) for one in callbacks] if isinstance(callbacks, list) else []
    if callbacks is not None and not (
        isinstance(callbacks, list) and all(issubclass(k, TrainerCallback) for k in kinds)
    ):
        raise UserError(f"callbacks must be a list of transformers.TrainerCallback, got {_shown(callbacks)}")
    optimizers = others.get("optimizers", (None, None))
    if not (isinstance(optimizers, tuple) and len(optimizers) == 2):
        raise UserError(f"optimizers must be a pair of optimizer and scheduler, got {_shown(optimizers)}")


def _validators(kind: type) -> dict[str, Callable[..., Any]]:
    """A check of each of our own fields; transformers' fields are its own matter."""
    theirs = {field.name for field in fields(TrainingArguments)}
    hints = get_type_hints(kind)
    config = ConfigDict(arbitrary_types_allowed=True)
    return {
        field.name: TypeAdapter(hints[field.name], config=config).validate_python
        for field in fields(kind)
        if field.init and field.name not in theirs and field.name not in _READ_AS_TEXT
    }


def _is_model(value: Any) -> bool:
    return (isinstance(value, nn.Module) and hasattr(value, "config")) or (isinstance(value, str) and bool(value))


def _shown(value: Any) -> str:
    text = (
        " ".join(repr(value).split())
        if isinstance(value, str | int | float | list | dict | Path)
        else type(value).__name__
    )
    return text if len(text) <= 80 else text[:80] + "..."
