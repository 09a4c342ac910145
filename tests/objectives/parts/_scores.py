"""Small batches for the tests of grkd's parts."""

import math
from typing import Any

import torch
from torch import Tensor

from grkd.objectives import GRKD, Batch, Term, combine
from grkd.objectives.parts import Part


def a_batch(rows: int = 5, candidates: int = 6, *, progress: float = 1.0) -> Batch:
    """Classes, in float64."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(student=student, teacher=2 * teacher, labels=torch.arange(rows) % candidates, progress=progress)


def responses(progress: float = 0.3) -> Batch:
    """Three prompts with up to four responses: mean token log-probabilities and the teacher's rewards."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (-torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[True, True, True, True], [True, True, True, False], [True, False, False, False]])
    return Batch(student=student, teacher=teacher, mask=mask, progress=progress, level="response")


def ranked_by(*parts: Part, **options: Any) -> GRKD:
    """GRKD with these ranking parts and its default anchor."""
    return GRKD(ranking=parts, **options)


def loss_of(batch: Batch, *parts: Part) -> Tensor:
    """The loss of ranking parts alone, at alpha = 1."""
    return combine(ranked_by(*parts, alpha_shape="constant").terms(batch))


def term_of(batch: Batch, part: Part) -> Term:
    """The term of one ranking part, with alpha = progress."""
    return ranked_by(part).terms(batch)[0]


def log_softmax(values: list[float], temperature: float) -> list[float]:
    normaliser = math.log(sum(math.exp(value / temperature) for value in values))
    return [value / temperature - normaliser for value in values]
