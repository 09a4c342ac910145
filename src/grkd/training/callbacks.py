"""What a training run shows and leaves behind: a progress bar, metrics as JSON lines, steps that stay finite."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grkd.console import progress_bar
from grkd.files import NotJSON, parse_json

if TYPE_CHECKING:
    from grkd.training.time_limit import TimeLimit


Logs = dict[str, float]


class ProgressBar(TrainerCallback):
    """A rich bar with steps per second, time left and the loss."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def position(self, state: TrainerState) -> dict[str, Any]:
        """Fields of the bar's task: what is done, and of how much."""
        return {"total": state.max_steps, "completed": state.global_step}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = progress_bar()
            self.task = self.bar.add_task(self.description, unit="step", **self.position(state))
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, **self.position(state))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs | None = None, **_: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.update(self.task, description=f"{self.description}  loss {logs['loss']:.3f}")

    def stop(self) -> None:
        """Close the bar, also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class MetricsFile(TrainerCallback):
    """Writes one JSON line per log; after a resume, lines beyond the checkpoint's step are dropped first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock, self._step = 0.0, 0
        # Totals of the whole training, including the part before a restart. A row is a token or an example.
        self.seconds = self.rows_seen = self._rows_before = 0.0

    def seconds_now(self) -> float:
        """Seconds of training up to this moment, without what was `paused`."""
        return self.seconds + time.perf_counter() - self._clock

    def spent(self, steps: int) -> dict[str, Any]:
        """What results keep of a training: {steps, seconds, rows_seen}, and seconds_per_step where it samples.

        seconds_per_step: of sampling, ranking and the rest, train; means over all steps. Of a time limit's first step,
        which is left out of its seconds, nothing is counted.
        """
        found: dict[str, Any] = {"steps": steps, "seconds": self.seconds, "rows_seen": int(self.rows_seen)}
        totals: dict[str, float] = defaultdict(float)
        last_step, last_seconds = 0, 0.0
        for line in json_lines(self.path):
            steps_since, seconds_since = line["step"] - last_step, line["seconds"] - last_seconds
            parts = {name: mean * steps_since for name, mean in line.get("seconds_per_step", {}).items()}
            share = min(1.0, seconds_since / max(1e-9, sum(parts.values())))  # below 1: the first step is left out
            for name, part in parts.items():
                totals[name] += part * share
            last_step, last_seconds = line["step"], line["seconds"]
        if totals and steps:
            totals["train"] = max(0.0, self.seconds - sum(totals.values()))
            found["seconds_per_step"] = {name: seconds / steps for name, seconds in totals.items()}
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is no part of training's time."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._clock += time.perf_counter() - begin

    def leave_out_the_last_step(self, step: int) -> None:
        """The time since the last log is no part of training's; `step`: the one that ends now."""
        self._clock, self._step = time.perf_counter(), step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._clock, self._step = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            kept = [line for line in json_lines(self.path) if line["step"] <= state.global_step]
            self.seconds = kept[-1]["seconds"] if kept else 0.0
            self._rows_before = self.rows_seen = kept[-1]["rows_seen"] if kept else 0.0
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        self.seconds += now - self._clock
        self.rows_seen = self._rows_before + logs["rows_seen"]
        line: dict[str, Any] = {
            "step": state.global_step,
            "progress": logs["progress"],
            "loss_nats": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "gradient_norm": logs.get("grad_norm"),
            "seconds": self.seconds,
            "rows_seen": self.rows_seen,
            "steps_per_second": (state.global_step - self._step) / max(1e-9, now - self._clock),
            "terms": _named("terms/", logs),
        }
        if parts := _named("seconds/", logs):
            line["seconds_per_step"] = parts  # sampling and ranking; the rest of a step is training
        if parts := _named("crossing/", logs):
            line["crossing"] = parts  # shares, beside a teacher of another vocabulary
        if "alpha" in logs:
            line["alpha"] = logs["alpha"]
        self._clock, self._step = now, state.global_step
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(line)) + "\n")


class BesideTraining(TrainerCallback):
    """A callback whose work is no part of training's time: its attributes are set before training begins.

    student: gives the student as it is, whole; every process must call it.
    """

    metrics: MetricsFile
    student: Callable[[], nn.Module]
    limit: "TimeLimit | None" = None

    def done(self, state: TrainerState) -> float:
        """Share of the training that is over."""
        return state.global_step / state.max_steps if self.limit is None else self.limit.progress


class FiniteSteps(TrainerCallback):
    """Ends a training whose loss or gradients are no longer finite: no further step would repair its weights.

    At the last step and at a checkpoint a line is logged, so that what came since the last one is counted and seen.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        values = {"loss": logs["loss"]}
        if not args.fp16:  # whose loss scale is found by gradients that overflow: such steps are left out
            values["gradient's norm"] = logs.get("grad_norm", 0.0)
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} is {value} at step {state.global_step}; a lower learning rate may help"
                )


def _named(prefix: str, logs: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in logs.items() if name.startswith(prefix)}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Whole JSON lines of a file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(parse_json(text))
        except NotJSON:
            break
    return lines


def _finite(value: Any) -> Any:
    """NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
