"""A training that lasts so many seconds: schedules follow the clock instead of the number of steps."""

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grkd.errors import UserError
from grkd.ranks import from_main
from grkd.training.callbacks import MetricsFile, ProgressBar

NO_LAST_STEP = 1 << 40  # transformers must be given a number of steps; the clock ends the training long before
PARTS = 1_000_000  # in place of steps, for the learning rate's schedule


class TimeLimit(TrainerCallback):
    """Ends a training after `seconds`; its progress is the share of them that was over when the last step ended.

        progress = min(1, seconds of training / limit)

    clock: seconds of the training, those before a restart included, without what is paused there: answers to the
    curve's questions, checkpoints, and the first step after each start, which compiles kernels. All processes take the
    main one's time. `clock` must come before this callback, callbacks that look at the last step after it.
    """

    def __init__(self, seconds: float, clock: MetricsFile) -> None:
        self.seconds, self.clock = seconds, clock
        self.progress = 0.0  # what the next step sees
        self.seen = 0.0  # what the last step saw
        self._warm = False

    @property
    def left(self) -> float:
        """Seconds of training that are left."""
        return self.seconds * (1.0 - self.progress)

    def paced(self, scheduler: LRScheduler) -> LRScheduler:
        """The scheduler of a training of PARTS steps, which from now on goes by the clock."""
        if not isinstance(scheduler, LambdaLR):
            raise UserError("training.minutes: this schedule of the learning rate counts steps; choose another")

        def by_clock(rate: Any) -> Any:
            return lambda step: rate(round(self.progress * PARTS))

        scheduler.lr_lambdas = [by_clock(rate) for rate in scheduler.lr_lambdas]
        return scheduler

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._warm = False
        self.progress = self.seen = self._now()

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Before the scheduler looks: the rate and the objective's weights of a step go by the same moment."""
        self.seen = self.progress
        if not self._warm:
            self._warm = True
            _finish(args)
            self.clock.leave_out_the_last_step(state.global_step + 1)
        self.progress = self._now()
        if self.progress >= 1.0:
            _finish(args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.progress >= 1.0:
            control.should_training_stop = True
            state.max_steps = state.global_step  # so that this is the last step to all who ask

    def _now(self) -> float:
        return min(1.0, from_main(self.clock.seconds_now) / self.seconds)


class SecondsBar(ProgressBar):
    """The bar of a training with a time limit: seconds of it, and the steps per second."""

    def __init__(self, description: str, limit: TimeLimit) -> None:
        super().__init__(description)
        self.limit, self._first = limit, -1

    def position(self, state: TrainerState) -> dict[str, Any]:
        if self._first < 0:
            self._first = state.global_step
        done = state.global_step - self._first
        return {"total": self.limit.seconds, "completed": self.limit.progress * self.limit.seconds, "amount": done}


def _finish(args: TrainingArguments) -> None:
    """What is queued on the GPU belongs to the step."""
    if args.device.type == "cuda":
        torch.cuda.synchronize(args.device)
