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
# Beginnings of names -> why such a field has no effect here, or would break a run.
_WITHOUT = {
    "hub_": "a run uploads nothing; give `grkd push STUDENT OWNER/NAME` after it",
    "push_to_hub": "a run uploads nothing; give `grkd push STUDENT OWNER/NAME` after it",
    "save_": "checkpoints are grkd's own; training.save_every says how often they are written",
    "resume_from_checkpoint": "the same command resumes by itself",
    "overwrite_output_dir": "the same command resumes by itself; delete the run's folder to start again",
    "restore_callback_states": "the same command resumes by itself",
    "ignore_data_skip": "the same command resumes by itself",
    "load_best_model": "grkd keeps the last step",
    "metric_for_best_model": "grkd keeps the last step",
    "greater_is_better": "grkd keeps the last step",
    "do_": "grkd runs its own stages",
    "eval_": "the evaluation section says what is measured",
    "per_device_eval": "the evaluation section says what is measured",
    "prediction_": "the evaluation section says what is measured",
    "batch_eval": "the evaluation section says what is measured",
    "include_": "the evaluation section says what is measured",
    "logging_": "logs are grkd's own; training.log_every says how often they are written",
    "log_level": "logs are grkd's own",
    "log_on_each": "logs are grkd's own",
    "disable_tqdm": "progress is grkd's own",
    "run_name": "runs are named after method and seed",
    "remove_unused_columns": "grkd makes its own batches",
    "label_names": "grkd makes its own batches",
    "label_smoothing": "the method is the loss; see grkd methods",
    "length_column_name": "grkd makes its own batches",
    "group_by_length": "grkd makes its own batches",
    "past_index": "grkd makes its own batches",
}


def managed(field: str) -> str | None:
    """Why a field may not be set in `training.extra`, as one line; None if it may."""
    if field in _KEYS:
        return f"grkd sets it; use {_KEYS[field]}"
    reason = next((reason for begin, reason in _WITHOUT.items() if field.startswith(begin)), None)
    return None if reason is None else f"cannot be set: {reason}"
