"""Tiny trainers, prompts and settings of the work in tests.distributed."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainingArguments

from grkd import objectives
from grkd.data.language import Item
from grkd.ranks import ranks
from grkd.training import DistillationTrainer, LanguageRows
from grkd.training.on_policy import on_policy_sampler
from tests.kernels._sharded import PAD, VOCABULARY, items, tiny

STEPS = 20


def prompts() -> list[Item]:
    """Nine: two ranks with batches of two have a last step of one example in all."""
    made = items()
    return [*made, *(Item(f"more{item.id}", item.prompt_ids[::-1], item.response_ids) for item in made[:1])]


def arguments(folder: Path, device: str, *, batch: int) -> dict[str, Any]:
    """Settings of a trainer whose processes take `batch` examples together."""
    each = batch // ranks().num_processes
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": each,
        "per_device_eval_batch_size": each,
        "logging_steps": float(STEPS),  # GRKDConfig says float, and tests check types
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def trainer(folder: Path, device: str, method: str, *, batch: int, **settings: Any) -> DistillationTrainer:
    """A trainer in float32."""
    objective = objectives.load(method)
    ahead, tokens = settings.pop("steps_per_generation", 1), settings.pop("tokens_per_batch", None)
    compiled = settings.pop("compile_layers", False)
    sampler = on_policy_sampler(None, max_new_tokens=6, stop_ids=[PAD], pad_token_id=PAD, vocabulary=VOCABULARY)
    return DistillationTrainer(
        tiny(1, 2),
        TrainingArguments(**(arguments(folder, device, batch=batch) | settings)),
        objective=objective,
        rows=LanguageRows(
            pad_token_id=PAD,
            vocabulary=VOCABULARY,
            teacher=tiny(2, 3),
            sampler=sampler if objective.on_policy else None,
            tokens_per_batch=tokens,
        ),
        steps_per_generation=ahead,
        compile_layers=compiled,
        train_dataset=prompts(),
        eval_dataset=prompts()[:5],
    )


def state_of(made: DistillationTrainer) -> dict[str, Tensor]:
    """The whole student's weights, on the main process."""
    whole = made.whole_student()
    return {} if whole is None else {name: value.detach().cpu() for name, value in whole.state_dict().items()}
