"""What `GRKDTrainer` leaves in its output_dir for `grkd report`: the same files as a run of a recipe."""

import json
import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from grkd.environment import command_line, environment
from grkd.files import parse_json, read_json, write_json, write_text
from grkd.training.callbacks import MetricsFile

_BEFORE = "before"  # as reports call the student before training
_OF_THE_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class RunFiles(MetricsFile):
    """Writes arguments.yaml (what differs from its default) and train/<method>-seed<k>/metrics.jsonl as training
    goes on, then training.json, environment.json and results.json with every metric of the last `evaluate()` before and
    after training (of several sets those of each), and the student's size.

    `grkd report OUTPUT_DIR [OTHER ...]` makes the page and the table of them, `grkd watch` the page in training.
    """

    def __init__(self, folder: Path, *, method: str, seed: int) -> None:
        self.folder, self.method, self.seed = folder, method, seed
        self.name = f"{method}-seed{seed}"
        self.found: dict[str, dict[str, float]] = {}
        self._measured_at: dict[str, int] = {}  # the step of what is found
        self.size: dict[str, int] = {}
        super().__init__(folder / "train" / self.name / "metrics.jsonl")

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "environment.json", environment(command_line()))
            write_text(self.folder / "arguments.yaml", yaml.safe_dump(_changed(args), sort_keys=False))
            self.size = {} if model is None else size_of(model)
            if state.global_step and _BEFORE not in self.found:  # resumed: it was measured before the kill
                results = self.folder / "results.json"
                rows = read_json(results)["rows"] if results.is_file() else []
                if found := {row["metric"]: row["value"] for row in rows if row["method"] == _BEFORE}:
                    self.found[_BEFORE] = found
        super().on_train_begin(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            write_json(self.path.parent / "training.json", self.spent(state.global_step))
            self._write(state)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **_: Any) -> None:
        """Keep the metrics: before the first step they are those of the student before training."""
        when = self.method if state.global_step else _BEFORE
        kept = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items() if name != "epoch"}
        if self._measured_at.get(when) != state.global_step:
            self.found[when] = {}  # else another set of the same evaluation
        self._measured_at[when] = state.global_step
        self.found[when] |= {
            name: float(value)
            for name, value in kept.items()
            if not name.endswith(_OF_THE_CLOCK) and isinstance(value, int | float) and math.isfinite(value)
        }
        if state.is_world_process_zero and (state.global_step == 0 or state.global_step >= state.max_steps):
            self._write(state)

    def _write(self, state: TrainerState) -> None:
        spent = self.spent(state.global_step)
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
        found = {
            "title": self.folder.name,
            "task": "language_model",
            "status": {self.name: "done"} if state.global_step else {},
            "counts": {},
            "costs": {name: self.size for name in self.found if self.size},
            "rows": rows,
        }
        write_json(self.folder / "results.json", found)


def _changed(args: TrainingArguments) -> dict[str, Any]:
    """Arguments that differ from their defaults, in YAML's own types (of others their text); no tokens of accounts."""
    given = {name: (getattr(args, name), default) for name, default in defaults_of(args).items()}
    changed = {name: value for name, (value, default) in given.items() if value != default}
    plain = json.dumps({name: value for name, value in changed.items() if not name.endswith("_token")}, default=str)
    return dict(parse_json(plain, strict=False))


def defaults_of(arguments: Any) -> dict[str, Any]:
    """Each field's default, of a dataclass all of whose fields have one."""
    return {
        one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(arguments)
    }


def size_of(model: nn.Module) -> dict[str, int]:
    """parameters, and weight_bytes as they lie in memory; a sharded model counts as a whole."""
    weights = list(model.parameters())
    size = sum(one.numel() * one.element_size() for one in weights)
    return {"parameters": sum(one.numel() for one in weights), "weight_bytes": size}
