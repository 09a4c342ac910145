"""Plackett-Luce against rankings spelt out in plain Python."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.losses import plackett_luce, rankings_jsd


def scores(rows: int = 6, candidates: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, 2 * teacher


def some_missing(rows: int = 6, candidates: int = 5) -> Tensor:
    """Rows with 5, 4, 3, 2, 1 and 0 candidates, at different places."""
    mask = torch.ones(rows, candidates, dtype=torch.bool)
    for row, missing in enumerate([(), (2,), (0, 4), (1, 2, 3), (0, 1, 2, 4), (0, 1, 2, 3, 4)]):
        mask[row, list(missing)] = False
    return mask


def log_probability(values: list[float], order: Any) -> float:
    """Of a ranking (indices, the best first; it may stop early) under scores."""
    left, total = list(range(len(values))), 0.0
    for chosen in order:
        total += values[chosen] - math.log(math.fsum(math.exp(values[other]) for other in left))
        left.remove(chosen)
    return total


def divergence_by_hand(student: list[float], teacher: list[float], places: int) -> float:
    total = 0.0
    for order in permutations(range(len(student)), places):
        p, q = (math.exp(log_probability(values, order)) for values in (teacher, student))
        total += 0.5 * p * math.log(2 * p / (p + q)) + 0.5 * q * math.log(2 * q / (p + q))
    return total


def present(values: Tensor, mask: Tensor, row: int) -> list[float]:
    return values[row, mask[row]].tolist()


@pytest.mark.parametrize("top_k", [None, 1, 2, 3, 99])
def test_order_equals_the_formula(top_k: int | None) -> None:
    student, teacher = scores()
    mask = some_missing()
    found = plackett_luce(student, teacher, mask=mask, top_k=top_k)
    for row in range(len(student)):
        s, t = present(student, mask, row), present(teacher, mask, row)
        order = sorted(range(len(t)), key=lambda index: -t[index])
        assert found[row].item() == pytest.approx(-log_probability(s, order[:top_k]), abs=1e-12)


def test_probabilities_of_all_orders_add_up_to_one() -> None:
    student, _ = scores(rows=1, candidates=4)
    orders = torch.tensor(list(permutations(range(4))), dtype=torch.float64)
    total = (-plackett_luce(student.expand(24, 4), orders)).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_by_hand() -> None:
    # Scores log 1, log 2, log 5; the teacher's order is 2, 0, 1: probability 5/8 * 1/3.
    student = torch.tensor([1.0, 2.0, 5.0]).log()
    teacher = torch.tensor([0.3, 0.2, 0.9])
    torch.testing.assert_close(plackett_luce(student, teacher), torch.tensor(math.log(24 / 5)))
    torch.testing.assert_close(plackett_luce(student, teacher, top_k=1), torch.tensor(math.log(8 / 5)))


def test_ties_are_ordered_by_index() -> None:
    student = torch.tensor([1.0, 2.0, 5.0]).log()
    found = plackett_luce(student, torch.tensor([0.5, 0.5, 0.1]))
    torch.testing.assert_close(found, torch.tensor(-math.log(1 / 8 * 2 / 7)))


def test_leading_axes_and_shifts_do_not_matter() -> None:
    student, teacher = scores(rows=6)
    whole = plackett_luce(student, teacher)
    torch.testing.assert_close(plackett_luce(student.view(2, 3, 5), teacher.view(2, 3, 5)), whole.view(2, 3))
    torch.testing.assert_close(plackett_luce(student + 40, teacher - 7), whole)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_divergence_equals_brute_force_over_the_rankings(ranks: int) -> None:
    student, teacher = scores()
    mask = some_missing()
    found = rankings_jsd(student, teacher, mask=mask, ranks=ranks)
    for row in range(len(student)):
        s, t = present(student, mask, row), present(teacher, mask, row)
        expected = divergence_by_hand(s, t, min(ranks, len(s))) if s else 0.0
        assert found[row].item() == pytest.approx(expected, abs=1e-13)


def test_the_last_place_is_what_is_left() -> None:
    student, teacher = scores(candidates=4)
    exact = rankings_jsd(student, teacher, ranks=3)
    torch.testing.assert_close(rankings_jsd(student, teacher, ranks=6), exact)
    expected = [divergence_by_hand(s, t, 4) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(exact, torch.tensor(expected, dtype=torch.float64))
    assert (rankings_jsd(student, teacher, ranks=2) < exact).all()  # less is told apart


def test_divergence_is_symmetric_bounded_and_zero_where_equal() -> None:
    student, teacher = scores()
    found = rankings_jsd(student, teacher, ranks=4)
    torch.testing.assert_close(rankings_jsd(teacher, student, ranks=4), found)
    assert ((found > 0) & (found < math.log(2))).all()
    assert rankings_jsd(student, student + 3, ranks=4).abs().max() < 1e-14
    far = rankings_jsd(1e4 * student, -1e4 * student, ranks=4)
    torch.testing.assert_close(far, torch.full_like(far, math.log(2)))


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(masked: bool) -> None:
    student, teacher = scores()
    mask = some_missing() if masked else None
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, teacher, mask=mask), student)
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, teacher, mask=mask, top_k=2), student)
    assert torch.autograd.gradcheck(lambda s: rankings_jsd(s, teacher, mask=mask, ranks=3), student)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_missing_candidates_get_no_gradient(junk: float) -> None:
    student, teacher = scores()
    mask = some_missing()
    for loss in (plackett_luce, lambda s, t, mask: rankings_jsd(s, t, mask=mask, ranks=4)):
        dirty = student.masked_fill(~mask, junk).requires_grad_()
        rows = loss(dirty, teacher.masked_fill(~mask, junk), mask=mask)
        rows.sum().backward()
        assert rows.isfinite().all()
        assert dirty.grad is not None
        assert (dirty.grad[~mask] == 0).all()
        assert dirty.grad.isfinite().all()
        assert (dirty.grad[:4][mask[:4]] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_math_is_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (part.to(dtype) for part in scores())
    for found, expected in (
        (plackett_luce(student, teacher), plackett_luce(student.double(), teacher.double())),
        (rankings_jsd(student, teacher, ranks=4), rankings_jsd(student.double(), teacher.double(), ranks=4)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_mistakes_are_refused() -> None:
    student, teacher = scores(candidates=12)
    with pytest.raises(UserError, match="top_k must be 1 or more, got 0"):
        plackett_luce(student, teacher, top_k=0)
    with pytest.raises(UserError, match="ranks must be 1 or more, got 0"):
        rankings_jsd(student, teacher, ranks=0)
    with pytest.raises(UserError, match=r"12 responses have 95040 rankings of 5 places .*make ranks smaller"):
        rankings_jsd(student, teacher, ranks=5)
    for loss in (plackett_luce, lambda s, t, **more: rankings_jsd(s, t, ranks=2, **more)):
        with pytest.raises((ValueError, TypeCheckError)):
            loss(student, teacher[:, :3])
        with pytest.raises((ValueError, TypeCheckError)):
            loss(student, teacher, mask=torch.ones(12, dtype=torch.bool))
