"""Exact match while a student is trained: questions that it answers every so many steps, beside training's time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from grkd.data.language import unwrapped
from grkd.ranks import from_main
from grkd.training.callbacks import BesideTraining, json_lines

Asked = Callable[[PreTrainedModel], dict[str, Any]]


class ExactMatchCurve(BesideTraining):
    """Appends a line {step, seconds, exact_match: {value, low, high}} to `path`: at the start, every `every` steps
    (or at `points` points, evenly over the training) and at the end.

    seconds: of training up to there, without the time that the answers take. ask: a student's exact match, as
    grkd.language.evaluate.answered gives it; it runs in training's precision.
    """

    def __init__(self, path: Path, ask: Asked, *, every: int, points: int | None = None) -> None:
        self.path, self.ask, self.every, self.points = path, ask, every, points
        self._reached = 0  # points of the training's end, of all

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        def kept() -> bool:
            lines = [line for line in json_lines(self.path) if line["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            return bool(lines)

        self._reached = int((self.points or 0) * self.done(state))
        if not from_main(kept):
            self._measure(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = state.global_step >= state.max_steps
        if self.points is None:
            due = due or state.global_step % self.every == 0
        else:
            reached = int(self.points * self.done(state))
            due, self._reached = due or reached > self._reached, reached
        if due:
            self._measure(args, state)

    def _measure(self, args: TrainingArguments, state: TrainerState) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)  # what is queued belongs to training
        seconds = self.metrics.seconds_now()
        with self.metrics.paused():
            model: Any = unwrapped(self.student())
            training = model.training
            model.eval()
            with torch.no_grad(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
                found = self.ask(model)
            model.train(training)
            line = {"step": state.global_step, "seconds": seconds, **found}
            if not state.is_world_process_zero:  # it has answered its share of the questions
                return
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
