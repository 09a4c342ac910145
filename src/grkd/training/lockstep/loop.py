"""Several students trained together: one batch, one forward pass of the teacher, then each student's own step."""

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grkd.console import console
from grkd.errors import UserError
from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.networks import scores
from grkd.training.lockstep.batches import DeviceBatch, DeviceBatches, DeviceExamples, as_float
from grkd.training.lockstep.graphs import GraphedStep, StaticBatch, graphs_run_on
from grkd.training.lockstep.head import WideHead, with_wide_head
from grkd.training.lockstep.student import Job, LockstepStudent, Plan, term_weights

# Called after every epoch with its number (from 1) and the students by name; the names that it returns stop there.
Watch = Callable[[int, Mapping[str, nn.Module]], Collection[str]]


@dataclass(kw_only=True)
class Trained:
    """A student after its training.

    losses_nats: mean of every epoch. rows_seen: examples. seconds: its share of the time of all. stopped: the epoch
    after which `watch` ended it. failure: why it has no result.
    """

    module: nn.Module
    steps: int = 0
    rows_seen: int = 0
    seconds: float = 0.0
    losses_nats: list[float] = field(default_factory=list)
    stopped: int | None = None
    failure: str | None = None


def train_lockstep(
    jobs: Sequence[Job],
    examples: DeviceExamples,
    *,
    build: Callable[[int], nn.Module],
    plan: Plan,
    teacher: nn.Module | None = None,
    watch: Watch | None = None,
) -> dict[str, Trained]:
    """Train every job's student on the same batches; a student is what it would be if it were trained alone.

    build: a network from the seed of its weights. teacher: asked for its scores of every batch (as augmented); None
    where examples.teacher_scores say them, or for methods without one. Every loss is divided by the rows of the batch.
    A student whose step raises is left with its failure; the others go on.
    Raises UserError for methods that do not fit (no teacher, whole responses, features of a network without any),
    and what `watch` raises.
    """
    device = examples.labels.device
    batches = DeviceBatches(examples, batch_size=plan.batch_size, augment=plan.augment, seed=plan.data_seed)
    steps = plan.steps(batches.a_pass)
    speaker = None if teacher is None else _Teacher(teacher, plan, device)
    for job in jobs:
        if job.objective.needs_teacher and teacher is None and examples.teacher_scores is None:
            raise UserError(f"{job.name}: the method needs a teacher")
    students = [LockstepStudent(job, build, plan, steps=steps, device=device) for job in jobs]
    run = _Run(students, batches, speaker, steps)
    # Deterministic: what is fastest at the moment may add up in any order, and losses on distances (rkd) multiply that
    # rounding: after twelve steps two students of the same data were 4 % of their way apart.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=True):
        found = run.finished(watch)
    if device.type == "cuda":
        del run
        torch.cuda.empty_cache()  # every graph had its own memory
    return found


PREDICTED = 2048  # examples at a time


@torch.no_grad()
def predict(
    module: nn.Module, inputs: Tensor, *, batch_size: int = PREDICTED, bf16: bool = False
) -> Float[Tensor, "examples classes"]:
    """Logits of inputs that are on the module's device (uint8 images or floats), in eval mode; they stay there."""
    with evaluation_mode(module), torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=bf16):
        found = [scores(module, as_float(part)).float() for part in inputs.split(batch_size)]
    for layer in module.modules():
        if isinstance(layer, WideHead):
            layer.read = None
    return torch.cat(found)


class _Teacher:
    """A network that is asked for its scores, and for what its last layer reads."""

    def __init__(self, module: nn.Module, plan: Plan, device: torch.device) -> None:
        self.module, self.head = with_wide_head(module.to(device).eval().requires_grad_(False))
        self.bf16 = plan.bf16

    @torch.no_grad()
    def with_scores(self, batch: DeviceBatch) -> DeviceBatch:
        """The batch with the teacher's scores and features."""
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = scores(self.module, batch.inputs)
        features = None if self.head is None or self.head.read is None else self.head.read.float()
        return replace(batch, teacher_scores=logits.float(), teacher_features=features)


class _Run:
    """The loop over steps: who is still in it, and what is known of those who are not."""

    def __init__(
        self, students: Sequence[LockstepStudent], batches: DeviceBatches, teacher: _Teacher | None, steps: int
    ) -> None:
        self.active = {student.job.name: student for student in students}
        self.found = {name: Trained(module=student.module) for name, student in self.active.items()}
        self.sums: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self.active}
        self.batches, self.teacher, self.steps = batches, teacher, steps
        self.graphs: dict[str, GraphedStep] = {}
        self.static: StaticBatch | None = None

    def finished(self, watch: Watch | None) -> dict[str, Trained]:
        """Train to the end. Losses are read once, there: reading one earlier would wait for the device."""
        number, epoch, since = 0, 0, time.perf_counter()
        while number < self.steps and self.active:
            first = number
            for batch in itertools.islice(self.batches.epoch(), self.steps - number):
                self._step(batch if self.teacher is None else self.teacher.with_scores(batch), number)
                number += 1
            epoch += 1
            self._take_losses(number - first)
            if watch is not None and number < self.steps:
                for name in watch(epoch, {name: student.module for name, student in self.active.items()}):
                    self.found[name].stopped = epoch
                    self._leave(name)
        for name, sums in self.sums.items():
            self.found[name].losses_nats = [float(total) / count for count, total in sums]
            self.found[name].steps = sum(count for count, _ in sums)
            self.found[name].rows_seen = self.found[name].steps * self.batches.batch_size
        seconds, steps = time.perf_counter() - since, sum(trained.steps for trained in self.found.values())
        for trained in self.found.values():
            trained.seconds = seconds * trained.steps / max(1, steps)
        return self.found

    def _step(self, batch: DeviceBatch, number: int) -> None:
        if number == 0:
            self._capture(batch)
        if self.static is not None:
            for graph in self.graphs.values():
                graph.wait()
            self.static.fill(batch)
            for graph in self.graphs.values():
                graph.launch()
        for name, student in list(self.active.items()):
            if name in self.graphs:
                continue
            try:
                student.step(batch, number)
            except Exception as error:  # one student's failure leaves the others
                self.found[name].failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                self._leave(name)

    def _capture(self, batch: DeviceBatch) -> None:
        """CUDA graphs of the students whose objectives allow it; a refusal costs only speed, and is reported."""
        if not graphs_run_on(batch.labels.device):
            return
        static = StaticBatch.like(batch)
        wanted = {name: student for name, student in self.active.items() if student.plan.graphs}
        dropping = [name for name, student in wanted.items() if student.drops]
        if dropping:  # a graph's dropout draws from the device's common state, a plain step's from the student's own
            names = ", ".join(dropping)
            console.print(f"[yellow]{names}: without a CUDA graph (dropout is drawn step by step)[/yellow]")
        for name, student in wanted.items():
            if student.drops:
                continue
            classes = 2 if batch.teacher_scores is None else batch.teacher_scores.shape[-1]
            try:
                weights = term_weights(student.job.objective, classes=classes, steps=self.steps)
                if weights is None:
                    raise ValueError("its formula changes in training")
                self.graphs[name] = GraphedStep(student, static, weights)
            except Exception as error:  # what a graph cannot hold raises anything
                text = " ".join(str(error).split())[:200]
                console.print(f"[yellow]{name}: runs without a CUDA graph ({type(error).__name__}: {text})[/yellow]")
        self.static = static if self.graphs else None

    def _take_losses(self, steps: int) -> None:
        for name, student in self.active.items():
            if name in self.graphs:
                self.graphs[name].wait()
            self.sums[name].append((steps, student.loss_sum.clone()))
            student.loss_sum.zero_()

    def _leave(self, name: str) -> None:
        self.active.pop(name)
        self.graphs.pop(name, None)
