"""What `training.extra` may not set: fields of transformers.TrainingArguments that grkd sets or does without."""

# Field -> the recipe's key that sets it.
_KEYS = {
    "output_dir": "output",
    "seed": "seeds",
    "data_seed": "seeds",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.steps",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.schedule",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing": "training.gradient_checkpointing",
    "logging_steps": "training.log_every",
    "save_steps": "training.save_every",
    "report_to": "training.report_to",
    "use_cpu": "device",
    "bf16": "student.dtype",
}
# Why a field has no effect here, or would break a run -> how the names of such fields begin.
_WITHOUT = {
    "a run uploads nothing; give `grkd push STUDENT OWNER/NAME` after it": ("hub_", "push_to_hub"),
    "checkpoints are grkd's own; training.save_every says how often they are written": ("save_",),
    "the same command resumes by itself": ("resume_from_checkpoint", "restore_callback_states", "ignore_data_skip"),
    "the same command resumes by itself; delete the run's folder to start again": ("overwrite_output_dir",),
    "grkd keeps the last step": ("load_best_model", "metric_for_best_model", "greater_is_better"),
    "grkd runs its own stages": ("do_",),
    "the evaluation section says what is measured": (
        "eval_",
        "per_device_eval",
        "prediction_",
        "batch_eval",
        "include_",
        "bf16_full_eval",
        "fp16_full_eval",
    ),
    "logs are grkd's own; training.log_every says how often they are written": ("logging_",),
    "logs are grkd's own": ("log_level", "log_on_each"),
    "the processes of a launch are connected before; by NCCL on GPUs, by gloo on CPUs": ("ddp_backend", "ddp_timeout"),
    "progress is grkd's own": ("disable_tqdm",),
    "runs are named after method and seed": ("run_name",),
    "grkd makes its own batches": (
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "group_by_length",
        "past_index",
    ),
    "the method is the loss; see grkd methods": ("label_smoothing",),
}


def managed(field: str) -> str | None:
    """Why a field may not be set in `training.extra`, as one line; None if it may."""
    if field in _KEYS:
        return f"grkd sets it; use {_KEYS[field]}"
    reason = next((reason for reason, begins in _WITHOUT.items() if field.startswith(begins)), None)
    return None if reason is None else f"cannot be set: {reason}"
