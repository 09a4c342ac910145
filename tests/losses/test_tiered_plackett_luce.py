"""Tie-aware Plackett-Luce against the sum over every order of six candidates."""

import math
from itertools import permutations

import pytest
import torch

from grkd.errors import UserError
from grkd.losses import plackett_luce, tiered_plackett_luce


def by_enumeration(s: list[float], t: list[float], top_k: int | None) -> float:
    """-log of the probability of all orders that agree with the tiers; of its first tiers with top_k."""
    total = 0.0
    tiers = sorted(set(t), reverse=True)
    if top_k is not None:
        above = [sum(value > tier for value in t) for tier in tiers]
        tiers = [tier for tier, places in zip(tiers, above, strict=True) if places < top_k]
    wanted = [{i for i, value in enumerate(t) if value == tier} for tier in tiers]
    for order in permutations(range(len(s))):
        left, agrees = list(order), True
        for tier in wanted:
            agrees = agrees and set(left[: len(tier)]) == tier
            left = left[len(tier) :]
        if agrees:
            total += math.prod(math.exp(s[i]) / sum(math.exp(s[j]) for j in order[k:]) for k, i in enumerate(order))
    return -math.log(total)


TEACHERS = [[3, 2, 1, 0, -1, -2], [1, 0, 0, 0, 0, 0], [2, 2, 1, 1, 0, 0], [5, 0, 4, 0, 3, 0], [0, 0, 0, 1, 1, 0]]


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_equals_the_sum_over_all_orders_of_six(top_k: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(len(TEACHERS), 6, generator=generator, dtype=torch.float64)
    found = tiered_plackett_luce(student, torch.tensor(TEACHERS, dtype=torch.float64), top_k=top_k)
    for row, teacher in enumerate(TEACHERS):
        expected = by_enumeration(student[row].tolist(), [float(t) for t in teacher], top_k)
        assert found[row].item() == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_two_tied_by_hand() -> None:
    # Both orders of the tier: e/(e+2) * 1/2 + 1/(e+2) * e/(e+1)
    found = tiered_plackett_luce(torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.tensor([[1.0, 1.0, 0.0]]).double())
    expected = math.e / (math.e + 2) / 2 + math.e / (math.e + 2) / (math.e + 1)
    assert found.exp().reciprocal().item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("candidates", "first"), [(64, 32), (200, 100), (1000, 300), (1000, 990)])
def test_large_tiers_of_equal_candidates_are_one_of_all_choices(candidates: int, first: int) -> None:
    teacher = (torch.arange(candidates) < first).double().unsqueeze(0)
    student = torch.zeros(1, candidates, dtype=torch.float64, requires_grad=True)
    loss = tiered_plackett_luce(student, teacher)
    expected = math.lgamma(candidates + 1) - math.lgamma(first + 1) - math.lgamma(candidates - first + 1)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.sum().item() == pytest.approx(0.0, abs=1e-6)  # nothing changes if all scores rise alike


def test_without_ties_it_is_plackett_luce_and_masked_candidates_are_none() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(7, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(7, 12, generator=generator) < 0.7
    for top_k in (None, 4):
        found = tiered_plackett_luce(student, teacher, mask=mask, top_k=top_k)
        torch.testing.assert_close(found, plackett_luce(student, teacher, mask=mask, top_k=top_k), rtol=1e-7, atol=1e-8)
    tied = teacher.round()
    for row in range(7):
        alone = tiered_plackett_luce(student[row : row + 1, mask[row]], tied[row : row + 1, mask[row]])
        torch.testing.assert_close(tiered_plackett_luce(student, tied, mask=mask)[row : row + 1], alone)


def test_gradcheck_and_margins_far_apart() -> None:
    teacher = torch.tensor([[2.0, 2.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[0.3, -1.0, 2.0, 0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: tiered_plackett_luce(s, teacher), student)
    # A tier that is surely last: -log P is the margin times its size, up to constants; surely first: 0.
    for margin, expected in ((-300.0, 2 * 300.0), (300.0, 0.0)):
        far = torch.tensor([[margin, margin, 0.0]], dtype=torch.float64, requires_grad=True)
        loss = tiered_plackett_luce(far, torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)).sum()
        assert loss.item() == pytest.approx(expected, abs=2.0)
        (gradient,) = torch.autograd.grad(loss, far)
        assert gradient.isfinite().all()
        assert gradient[0, 0].item() == pytest.approx(-1.0 if margin < 0 else 0.0, abs=1e-6)


def test_rows_without_an_order_give_zero_and_mistakes_are_named() -> None:
    student, teacher = torch.randn(2, 3), torch.ones(2, 3)
    assert tiered_plackett_luce(student, teacher).tolist() == [0.0, 0.0]
    with pytest.raises(UserError, match="top_k must be 1 or more, got 0"):
        tiered_plackett_luce(student, teacher, top_k=0)
    with pytest.raises((ValueError, TypeError)):  # the second is jaxtyping's
        tiered_plackett_luce(student, torch.ones(2, 4))
