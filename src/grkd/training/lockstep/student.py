"""One student of a lock-step training: its network, objective and optimiser, and a single optimiser step."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from grkd import schedules
from grkd.errors import UserError
from grkd.models.networks import scores
from grkd.objectives import Batch, Features, Objective, Term, combine
from grkd.training.lockstep.batches import DeviceBatch
from grkd.training.lockstep.dropout import with_own_dropout
from grkd.training.lockstep.head import with_wide_head
from grkd.training.lockstep.optimizers import AdamW, Optimizer, Schedule, Sgd, Stepper, learning_rates

_TRIED = (0.0, 0.03, 0.37, 0.71, 1.0)  # progress at which an objective is looked at before a training
_PROBES = (0.11, 0.29, 0.5, 0.77, 0.93)  # where between two steps weights are held against a line
_CLASSES = 32  # of the small batch that it is looked at with


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student: `seed` draws its first weights (and its groups and dropout), not the order of the data."""

    name: str
    objective: Objective
    seed: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all students of a lock-step training have in common.

    total_steps: in place of epochs. data_seed: order of the examples, crops and flips. optimizer "sgd": Nesterov with
    `momentum`. max_grad_norm: 0 is no limit. augment: images are cropped and flipped. bf16: networks under bfloat16
    autocast, their last layer and the losses in float32. graphs: each student's step as one CUDA graph, on a GPU, where
    its objective allows it and it has no dropout but nn.Dropout (of whole channels, say).
    """

    epochs: float
    batch_size: int
    total_steps: int | None = None
    data_seed: int = 0
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    max_grad_norm: float = 0.0
    augment: bool = False
    bf16: bool = False
    graphs: bool = True

    def steps(self, a_pass: int) -> int:
        """Optimiser steps of the training, where an epoch has `a_pass`."""
        return self.total_steps or max(1, round(self.epochs * a_pass))


def check_for_classes(name: str, objective: Objective) -> None:
    """Raises UserError for a method that ranks or writes whole responses, of which a classifier has none."""
    if objective.levels != ("row",):
        raise UserError(f"{name}: a method on whole responses cannot train a classifier")
    if objective.on_policy:
        raise UserError(f"{name}: a classifier writes no responses; set on_policy_fraction: 0")


class LockstepStudent:
    """A network in training. `step` is one optimiser step; `fixed_step` the same with nothing decided on the host."""

    def __init__(self, job: Job, build: Callable[[int], nn.Module], plan: Plan, *, steps: int, device: torch.device):
        check_for_classes(job.name, job.objective)
        layout: dict[str, Any] = {"memory_format": torch.channels_last} if device.type == "cuda" else {}
        self.generator = torch.Generator(device).manual_seed(job.seed)
        module, self.head = with_wide_head(build(job.seed).to(device, **layout).train())
        module = with_own_dropout(module, self.generator)
        if job.objective.needs_features and self.head is None:
            raise UserError(f"{job.name}: the method reads features, but the network has no linear layer at its end")
        self.job, self.plan, self.steps, self.module, self.device = job, plan, steps, module, device
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.stepper: Stepper
        if plan.optimizer == "sgd":
            self.stepper = Sgd(self.parameters, momentum=plan.momentum, weight_decay=plan.weight_decay)
        else:
            self.stepper = AdamW(self.parameters, weight_decay=plan.weight_decay)
        rates = learning_rates(job.learning_rate, steps, schedule=plan.schedule, warmup=plan.warmup)
        self.rates = rates.to(device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)  # of the next fixed step
        self.loss_sum = torch.zeros((), device=device)  # since it was last taken
        self.drops = any(_draws(part) for part in module.modules())
        self.drawn = torch.Generator(device).manual_seed(job.seed).get_state()  # of dropout, by the common generator

    def terms(self, batch: DeviceBatch, progress: float) -> tuple[Term, ...]:
        """The objective's terms on the student's scores of a batch, with their graph."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.plan.bf16):
            logits = scores(self.module, batch.inputs)
        features = None
        if self.head is not None:
            read, self.head.read = self.head.read, None
            if read is not None and batch.teacher_features is not None:
                features = Features(student=read.float(), teacher=batch.teacher_features)
        return self.job.objective.terms(
            Batch(
                student=logits,
                teacher=batch.teacher_scores,
                labels=batch.labels,
                progress=progress,
                seeds=self.generator,
                features=features,
            )
        )

    def step(self, batch: DeviceBatch, number: int) -> None:
        """Optimiser step `number` (from 0)."""
        with self._own_draws():
            terms = self.terms(batch, schedules.progress_at(number, self.steps))
        self._update(combine(terms, rows=len(batch.labels)), self.rates[number])

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """The device's random state is the student's own: what the others draw does not matter.

        Also where no dropout is seen: a network's own code may draw.
        """
        random: Any = torch.cuda if self.device.type == "cuda" else torch
        others = random.get_rng_state()
        random.set_rng_state(self.drawn)
        try:
            yield
        finally:
            self.drawn = random.get_rng_state()
            random.set_rng_state(others)

    def fixed_step(self, batch: DeviceBatch, weights: Float[Tensor, "steps terms"]) -> None:
        """The next optimiser step by the device's own count; weights: of the terms, from `term_weights`.

        Not for a student that `drops`: its dropout would draw from the state that all students share.
        """
        number = self.number.clamp_max(self.steps - 1)
        totals = torch.stack([term.total() for term in self.terms(batch, 0.0)]) / len(batch.labels)
        loss = (totals * weights.index_select(0, number).squeeze(0)).sum()
        self._update(loss, self.rates.index_select(0, number).squeeze(0))
        self.number += 1

    def _update(self, loss: Float[Tensor, ""], learning_rate: Float[Tensor, ""]) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        if self.plan.max_grad_norm:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            gradients = torch._foreach_mul(gradients, (self.plan.max_grad_norm / (norm + 1e-6)).clamp_max(1.0))
        self.stepper.step(gradients, learning_rate)
        self.loss_sum += loss.detach()


def _draws(part: nn.Module) -> bool:
    """Dropout with the common state: layers of it, and layers that hold it as a number (attention, LSTM)."""
    inside = getattr(part, "dropout", 0.0)
    return (isinstance(part, _DropoutNd) and part.p > 0) or (isinstance(inside, float) and inside > 0)


@lru_cache(maxsize=256)
def term_weights(objective: Objective, *, classes: int, steps: int) -> Float[Tensor, "steps terms"] | None:
    """The weight of every term at every step; None if more than the weights changes with progress.

    A CUDA graph repeats the same operations: weights can be read from a table, another formula cannot.
    """
    seen = [_terms_at(objective, classes, progress) for progress in _TRIED]
    names = [[term.name for term in terms] for terms in seen]
    if any(other != names[0] for other in names):
        return None
    for terms in seen[1:]:
        for term, first in zip(terms, seen[0], strict=True):
            if not torch.equal(term.rows, first.rows) or not torch.equal(term.counted, first.counted):
                return None
    if all([term.weight for term in terms] == [term.weight for term in seen[0]] for terms in seen):
        return torch.tensor([[term.weight for term in seen[0]]]).expand(steps, -1).contiguous()
    return torch.tensor(_table(objective, classes, steps))


def _table(objective: Objective, classes: int, steps: int) -> list[list[float]]:
    """Weights at every step. Where they lie on a line between two steps, few of the steps between are asked for."""
    asked: dict[int, list[float]] = {}

    def at(step: int) -> list[float]:
        if step not in asked:
            terms = _terms_at(objective, classes, schedules.progress_at(step, steps))
            asked[step] = [term.weight for term in terms]
        return asked[step]

    def between(first: int, last: int) -> list[list[float]]:
        """Those of first <= step < last."""
        ends = list(zip(at(first), at(last), strict=True))
        line = [[a + (b - a) * n / (last - first) for a, b in ends] for n in range(last - first)]
        probes = {first + round(share * (last - first)) for share in _PROBES} - {first, last}
        pairs = [pair for step in probes for pair in zip(at(step), line[step - first], strict=True)]
        if all(math.isclose(weight, guess, rel_tol=1e-9, abs_tol=1e-12) for weight, guess in pairs):
            return line
        middle = (first + last) // 2
        return between(first, middle) + between(middle, last)

    return [*between(0, steps - 1), at(steps - 1)] if steps > 1 else [at(0)]


@torch.no_grad()
def _terms_at(objective: Objective, classes: int, progress: float) -> tuple[Term, ...]:
    """Terms on a small random batch, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    # Few classes, since this runs once per step; a larger group is asked for all of them.
    classes = classes if objective.least_candidates > _CLASSES else min(classes, _CLASSES)
    student, teacher = (torch.randn(4, classes, generator=generator) for _ in range(2))
    read = [torch.randn(4, 3, generator=generator) for _ in range(2)]
    return objective.terms(
        Batch(
            student=student,
            teacher=teacher,
            labels=torch.arange(4) % classes,
            progress=progress,
            seeds=generator,
            features=Features(student=read[0], teacher=read[1]),
        )
    )
