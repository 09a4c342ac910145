"""The train stage that both tasks share: a recipe's training section becomes a DistillationTrainer's run."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from grkd import objectives
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.files import write_json
from grkd.objectives import Objective
from grkd.ranks import by_launcher, from_main, ranks
from grkd.recipe import Method, Training
from grkd.run.device import fitting_threads
from grkd.run.trainer_settings import check_extra, check_trackers
from grkd.training import (
    DistillationTrainer,
    FiniteSteps,
    LanguageRows,
    MetricsFile,
    ProgressBar,
    RowSource,
    WholeCheckpoints,
    last_whole_checkpoint,
)
from grkd.training.callbacks import BesideTraining
from grkd.training.memory import KeptLayers, recomputed_layers
from grkd.training.time_limit import NO_LAST_STEP, SecondsBar, TimeLimit


def arguments(
    training: Training,
    *,
    folder: Path,
    seed: int,
    where: torch.device,
    bf16: bool,
    run_name: str,
    recompute: bool = False,
) -> TrainingArguments:
    """transformers.TrainingArguments of a recipe's training section; `extra` goes in last.

    recompute: what gradient_checkpointing: auto comes to.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    check_extra(training.extra, get_type_hints(TrainingArguments))
    check_trackers(training)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "run_name": run_name,
        "num_train_epochs": training.epochs,
        "max_steps": NO_LAST_STEP if training.minutes is not None else training.steps or -1,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": training.warmup,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "logging_steps": training.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
        "save_strategy": "steps",
        "save_steps": training.save_every,
        "save_total_limit": 2,  # the newest may be half-written when the run is killed
        "eval_strategy": "no",
        "report_to": training.report_to,
        "disable_tqdm": True,
        "seed": seed,
        "use_cpu": where.type == "cpu",
        "bf16": bf16,
        "dataloader_pin_memory": where.type == "cuda",
        "accelerator_config": {"non_blocking": where.type == "cuda"},  # a batch's copy waits for no step
    }
    if recompute if training.gradient_checkpointing == "auto" else training.gradient_checkpointing:
        # Newer versions of transformers call it activation checkpointing and warn of the old name.
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        settings[name] = True
    return TrainingArguments(**(settings | training.extra))


def check(training: Training, methods: Sequence[Method] = (), candidates: int | None = None) -> None:
    """Raises UserError for what transformers refuses, and for methods that do not fit the number of candidates."""
    # TrainingArguments begins the process group of a launch, for good: it must not be that of CPUs where GPUs train.
    where = ranks().device if by_launcher() else torch.device("cpu")
    try:
        arguments(training, folder=Path("unused"), seed=0, where=where, bf16=False, run_name="check")
    except (ValueError, TypeError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split())
        raise UserError(f"training: {text if len(text) <= 250 else text[:250] + '...'}") from None
    for method in methods:
        if candidates is not None:
            objectives.load(method.name, **method.options).check_candidates(candidates)


def train(
    model: nn.Module,
    dataset: Dataset[Any] | Sequence[Any],
    *,
    objective: Objective,
    rows: RowSource,
    training: Training,
    folder: Path,
    seed: int,
    where: torch.device,
    bf16: bool,
    description: str,
    callbacks: Sequence[TrainerCallback] = (),
    everywhere: bool = False,
) -> nn.Module | None:
    """Train in `folder` (checkpoints/, metrics.jsonl, training.json), resumed from the last complete checkpoint.

    Returns the student; None on all processes but the main one if its weights are sharded and not wanted everywhere.
    """
    checkpoints = folder / "checkpoints"
    metrics = MetricsFile(folder / "metrics.jsonl")
    limit = None if training.minutes is None else TimeLimit(60.0 * training.minutes, metrics)
    bar = ProgressBar(description) if limit is None else SecondsBar(description, limit)
    again = 0
    if training.gradient_checkpointing == "auto" and isinstance(rows, LanguageRows):
        again = recomputed_layers(
            model,
            rows.teacher,
            cast(Sequence[Group], dataset),
            examples=training.batch_size,
            budget=training.tokens_per_batch,
            masters=bf16,
            device=where,
            copies=training.float32_masters,
        )
    trainer = DistillationTrainer(
        model,
        arguments(
            training, folder=checkpoints, seed=seed, where=where, bf16=bf16, run_name=description, recompute=again > 0
        ),
        objective=objective,
        rows=rows,
        fused_head=training.fused_head,
        steps_per_generation=training.steps_per_generation,
        compile_layers=None if training.compile == "auto" else training.compile,
        float32_masters=training.float32_masters,
        time_limit=limit,
        train_dataset=dataset,
        callbacks=[metrics, *([] if limit is None else [limit]), bar, FiniteSteps(), *callbacks, WholeCheckpoints()],
    )
    if again:
        trainer.add_callback(KeptLayers(again))
    for callback in callbacks:
        if isinstance(callback, BesideTraining):
            callback.metrics, callback.limit, callback.student = metrics, limit, trainer.student_now
    trainer.remove_callback(PrinterCallback)  # prints every log as a dict where the Trainer's bar is off; ours shows it
    resume = from_main(lambda: last_whole_checkpoint(checkpoints))  # one decision of all processes
    try:
        with fitting_threads(model, where):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        bar.stop()
    if trainer.is_world_process_zero():
        write_json(folder / "training.json", metrics.spent(trainer.state.global_step))
    return trainer.whole_student(everywhere=everywhere)


def drop_checkpoints(folder: Path) -> None:
    """What is trained and saved needs none; before that, a kill would have it trained again from the start."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
