"""Pearson's distance against scipy, and where it is not defined."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.stats import pearsonr

from grkd.losses import pearson_distance


def values(seed: int, rows: int = 5, candidates: int = 7) -> torch.Tensor:
    return torch.randn(rows, candidates, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_scipy_on_the_unmasked() -> None:
    student, teacher = values(0), values(1)
    mask = values(2) < 0.8
    found = pearson_distance(student.masked_fill(~mask, math.nan), teacher.masked_fill(~mask, math.inf), mask=mask)
    for row, exists in enumerate(mask):
        assert exists.sum() > 2
        assert found[row].item() == pytest.approx(1 - pearsonr(student[row, exists], teacher[row, exists])[0])


def test_gradcheck() -> None:
    mask = values(2) < 0.8
    student, teacher = values(0).requires_grad_(), values(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pearson_distance(s, teacher.detach(), mask=mask), student)
    pearson_distance(student, teacher).sum().backward()
    assert teacher.grad is None


def test_scale_and_shift_change_nothing_and_the_sign_all() -> None:
    teacher = values(1)
    assert pearson_distance(3 * teacher - 1, teacher).abs().max() < 1e-14
    torch.testing.assert_close(pearson_distance(-teacher, teacher), torch.full((5,), 2.0, dtype=torch.float64))


def test_tiny_probabilities_correlate_as_large_ones_do() -> None:
    student, teacher = values(0).exp().float(), values(1).exp().float()
    torch.testing.assert_close(pearson_distance(1e-25 * student, 1e-25 * teacher), pearson_distance(student, teacher))


def test_where_it_is_not_defined() -> None:
    student = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [False, True, False], [False] * 3])
    found = pearson_distance(student, teacher, mask=mask)
    found.sum().backward()
    assert found.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError)):
        pearson_distance(values(0), values(1)[:, :6])
    with pytest.raises((ValueError, TypeCheckError)):
        pearson_distance(values(0), values(1), mask=torch.ones(1, 7, dtype=torch.bool))
