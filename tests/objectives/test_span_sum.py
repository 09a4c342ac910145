"""Span sums against their formula, and at the teacher."""

import math

import pytest
import torch

from grkd import objectives
from grkd.objectives import Batch


def test_by_hand() -> None:
    """P_S = .25, P_T = .64 at temperature 2: .5 and .8."""
    student, teacher = (torch.tensor([[each, 1 - each]], dtype=torch.float64).log() for each in (0.25, 0.64))
    batch = Batch(student=student, teacher=teacher, labels=torch.tensor([0]))
    (term,) = objectives.load("span_sum", temperature=2.0).terms(batch)
    assert term.rows.item() == pytest.approx(-0.8 * math.log(0.5) - 0.2 * math.log(0.5))


def test_it_is_least_where_both_spans_are_as_likely() -> None:
    teacher = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log()
    student = teacher.clone().requires_grad_()
    (term,) = objectives.load("span_sum").terms(Batch(student=student, teacher=teacher, labels=torch.tensor([0])))
    (gradient,) = torch.autograd.grad(term.rows.sum(), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_certain_spans_are_finite() -> None:
    student = torch.tensor([[60.0, 0.0], [-60.0, 0.0]], requires_grad=True)
    batch = Batch(student=student, teacher=torch.tensor([[60.0, 0.0], [60.0, 0.0]]), labels=torch.tensor([0, 0]))
    (term,) = objectives.load("span_sum").terms(batch)
    term.rows.sum().backward()
    assert bool(term.rows.isfinite().all())
    assert bool(student.grad.isfinite().all())  # type: ignore[union-attr]
