"""The batches and the measurements of recorded_grkd.json: what grkd's losses and gradients were before it had parts.

Scores come from a formula, not from a generator; only the groups that are sampled depend on torch's own.
"""

from typing import Any

import torch
from torch import Tensor

from grkd.objectives import Batch, Level, Objective, combine

PROGRESS = (0.0, 0.3, 1.0)


def wave(rows: int, candidates: int, phase: float) -> Tensor:
    """Scores of about the size of a normal variable, all different."""
    number = torch.arange(rows * candidates, dtype=torch.float64).reshape(rows, candidates)
    return 1.7 * torch.sin(1.234567 * number + phase) + 0.9 * torch.cos(0.3217 * number * (1 + phase))


def batches(task: str) -> dict[Level, Batch]:
    """Per level, a batch of a classifier ("classes"), or of a language model's tokens and responses ("language")."""
    if task == "classes":
        student, teacher = wave(12, 20, 0.1), 2 * wave(12, 20, 0.7)
        return {"row": Batch(student=student, teacher=teacher, labels=(3 * torch.arange(12)) % 20)}
    student, teacher = wave(3, 1040, 0.2), 2 * wave(3, 1040, 0.5)
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[1, 3] = mask[4, 0] = False
    rows = Batch(student=student, teacher=teacher, labels=torch.arange(3) * 100)
    responses = Batch(student=wave(5, 4, 0.3) / 5, teacher=wave(5, 4, 0.9) / 5, mask=mask, level="response")
    return {"row": rows, "response": responses}


def measured(objective: Objective, task: str) -> list[list[float]]:
    """Per point of training: the loss, and the inner products of the gradient with two fixed directions."""
    found = []
    for progress in PROGRESS:
        numbers = [0.0, 0.0, 0.0]
        for level in objective.levels:
            batch = batches(task)[level]
            student = batch.student.clone().requires_grad_()
            parts = {name: getattr(batch, name) for name in ("teacher", "labels", "mask", "level")}
            generator = torch.Generator().manual_seed(7)
            moved = Batch(student=student, progress=progress, seeds=generator, **parts)
            loss = combine(objective.terms(moved))
            (gradient,) = torch.autograd.grad(loss, student)
            sums = [(gradient * wave(*student.shape, phase)).sum().item() for phase in (0.4, 1.3)]
            numbers = [total + value for total, value in zip(numbers, [loss.item(), *sums], strict=True)]
        found.append(numbers)
    return found


def settings(space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Of a search: the first value of every option, then each other value alone."""
    first = {name: values[0] for name, values in space.items()}
    return [first, *({**first, name: value} for name, values in space.items() for value in values[1:])]
