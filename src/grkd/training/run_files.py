"""What `GRKDTrainer` leaves in its output_dir for `grkd report`: the same files as a run of a recipe."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from grkd.environment import command_line, environment
from grkd.files import write_json
from grkd.training.callbacks import MetricsFile

_BEFORE = "before"  # as reports call the student before training
_OF_THE_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class RunFiles(MetricsFile):
    """Writes train/<method>-seed<k>/metrics.jsonl as training goes on, then training.json, environment.json and
    results.json with every metric of the last `evaluate()` before and after training.

    `grkd report OUTPUT_DIR [OTHER ...]` makes the page and the table of them, `grkd watch` the page in training.
    """

    def __init__(self, folder: Path, *, method: str, seed: int) -> None:
        self.folder, self.method, self.seed = folder, method, seed
        self.name = f"{method}-seed{seed}"
        self.found: dict[str, dict[str, float]] = {}
        super().__init__(folder / "train" / self.name / "metrics.jsonl")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "environment.json", environment(command_line()))
        super().on_train_begin(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            spent = {"steps": state.global_step, "seconds": self.seconds, "rows_seen": int(self.rows_seen)}
            write_json(self.path.parent / "training.json", spent)
            self._write(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Keep the metrics: before the first step they are those of the student before training."""
        when = self.method if state.global_step else _BEFORE
        kept = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items() if name != "epoch"}
        self.found[when] = {
            name: float(value)
            for name, value in kept.items()
            if name not in _OF_THE_CLOCK and isinstance(value, int | float) and math.isfinite(value)
        }
        if state.is_world_process_zero and (state.global_step == 0 or state.global_step >= state.max_steps):
            self._write(state)

    def _write(self, state: TrainerState) -> None:
        spent = {"steps": state.global_step, "seconds": self.seconds, "rows_seen": int(self.rows_seen)}
        rows = [
            {
                "method": when,
                "seed": self.seed if when == self.method else None,
                "metric": metric,
                "value": value,
                "low": None,
                "high": None,
                **(spent if when == self.method else {}),
            }
            for when, metrics in self.found.items()
            for metric, value in metrics.items()
        ]
        status = {self.name: "done"} if state.global_step else {}
        write_json(
            self.folder / "results.json",
            {"title": self.folder.name, "task": "language_model", "status": status, "counts": {}, "rows": rows},
        )
