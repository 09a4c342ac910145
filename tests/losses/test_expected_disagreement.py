"""The chance that two draws differ: sums by hand, the advantage as its gradient, masks and bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from grkd.errors import UserError
from grkd.losses import expected_disagreement


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def scores(rows: int = 4, candidates: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(2 * torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_sum_by_hand(temperature: float) -> None:
    student, teacher = scores()
    found = expected_disagreement(student, teacher, temperature=temperature)
    for row in range(4):
        q, p = softmax(student[row].tolist(), temperature), softmax(teacher[row].tolist(), temperature)
        differ = sum(q[i] * p[j] for i in range(6) for j in range(6) if i != j)
        assert found[row].item() == pytest.approx(differ, rel=1e-12)


def test_numbers() -> None:
    even, sure = torch.zeros(1, 2), torch.tensor([[30.0, -30.0]])
    assert expected_disagreement(even, even).item() == pytest.approx(0.5)
    assert expected_disagreement(sure, sure).item() == pytest.approx(0.0, abs=1e-12)
    assert expected_disagreement(sure, -sure).item() == pytest.approx(1.0)
    thirds = torch.tensor([[math.log(2.0), 0.0]])  # 2/3, 1/3
    assert expected_disagreement(even, thirds).item() == pytest.approx(0.5)
    assert expected_disagreement(thirds, thirds).item() == pytest.approx(1 - 4 / 9 - 1 / 9)


def test_the_gradient_is_the_advantage_over_the_group_and_a_sum_over_pairs() -> None:
    student, teacher = scores()
    student.requires_grad_()
    temperature = 2.0
    (gradient,) = torch.autograd.grad(expected_disagreement(student, teacher, temperature=temperature).sum(), student)
    for row in range(4):
        q, p = softmax(student[row].tolist(), temperature), softmax(teacher[row].tolist(), temperature)
        mean = sum(a * b for a, b in zip(q, p, strict=True))
        for k in range(6):
            advantage = -q[k] * (p[k] - mean) / temperature
            pairs = -sum(q[k] * q[j] * (p[k] - p[j]) for j in range(6)) / temperature
            assert gradient[row, k].item() == pytest.approx(advantage, rel=1e-10)
            assert pairs == pytest.approx(advantage, rel=1e-10)
    assert torch.autograd.gradcheck(lambda s: expected_disagreement(s, teacher, temperature=temperature), student)


def test_masked_candidates_are_not_there() -> None:
    student, teacher = scores()
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6, [False] * 5 + [True]])
    broken = torch.where(mask, student, torch.nan).requires_grad_()
    found = expected_disagreement(broken, torch.where(mask, teacher, torch.inf), mask=mask)
    for row in range(4):
        kept = mask[row]
        expected = (
            expected_disagreement(student[row : row + 1, kept], teacher[row : row + 1, kept]) if kept.any() else 0
        )
        assert found[row].item() == pytest.approx(float(expected), abs=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), broken)
    assert gradient.isfinite().all()
    assert not gradient[~mask].any()


@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(-50.0, 50.0))
def test_bounds_and_invariances(seed: int, temperature: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (5 * torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    found = expected_disagreement(student, teacher, temperature=temperature)
    least = 1 - (teacher / temperature).softmax(-1).amax(-1)
    assert (found >= least - 1e-12).all()
    assert (found <= 1).all()
    torch.testing.assert_close(expected_disagreement(student + shift, teacher, temperature=temperature), found)
    torch.testing.assert_close(expected_disagreement(teacher, student, temperature=temperature), found)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(
        expected_disagreement(student[:, order], teacher[:, order], temperature=temperature), found
    )


def test_bad_input_and_the_teachers_gradient() -> None:
    student, teacher = scores()
    with pytest.raises(UserError, match="temperature must be above 0"):
        expected_disagreement(student, teacher, temperature=0.0)
    with pytest.raises((ValueError, TypeCheckError)):
        expected_disagreement(student, teacher[:, :3])
    teacher.requires_grad_()
    assert not expected_disagreement(student, teacher).requires_grad
