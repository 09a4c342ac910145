"""A candidate against all below it, against plain loops in float64 and a Plackett-Luce likelihood."""

import math

import pytest
import torch

from grkd.errors import UserError
from grkd.losses import group_relative, plackett_luce, softmax_pairs, voted_softmax_pairs


def by_loops(s: list[float], t: list[float], tau: float) -> float:
    values = []
    for i, own in enumerate(t):
        below = [math.exp((s[j] - s[i]) / tau) for j, other in enumerate(t) if other < own]
        if below:
            values.append(math.log(1 + sum(below)))
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_loops_masks_and_votes_agree(tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(6, 7, generator=generator, dtype=torch.float64)
    teacher = torch.randint(0, 3, (6, 7), generator=generator).double()
    teacher[0] = 1.0  # no pair
    mask = torch.rand(6, 7, generator=generator) < 0.8
    mask[:, :2] = True
    spoilt = torch.where(mask, student, torch.nan).requires_grad_()
    found = softmax_pairs(spoilt, teacher, mask=mask, tau=tau)
    for row in range(6):
        there = mask[row].nonzero().squeeze(-1)
        expected = by_loops(student[row, there].tolist(), teacher[row, there].tolist(), tau)
        assert found[row].item() == pytest.approx(expected)
    above = teacher.unsqueeze(-1) > teacher.unsqueeze(-2)
    torch.testing.assert_close(voted_softmax_pairs(spoilt, above, mask=mask, tau=tau), found)
    (gradient,) = torch.autograd.grad(found.sum(), spoilt)
    assert gradient.isfinite().all()
    assert not gradient[~mask].any()
    per_candidate = softmax_pairs(student, teacher, mask=mask, tau=tau, normalize="candidates")
    counted = ((teacher.unsqueeze(-1) > teacher.unsqueeze(-2)) & mask.unsqueeze(-2)).any(-1) & mask
    torch.testing.assert_close(per_candidate * mask.sum(-1), found * counted.sum(-1))


def test_a_full_order_is_plackett_luce_and_two_candidates_are_a_pair() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(5, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(softmax_pairs(student, teacher), plackett_luce(student, teacher) / 8)
    two = student[:, :2], teacher[:, :2]
    torch.testing.assert_close(softmax_pairs(*two), group_relative(*two))


def test_gradient() -> None:
    student = torch.randn(2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[2.0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).double()
    assert torch.autograd.gradcheck(lambda s: softmax_pairs(s, teacher, tau=0.7), student)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="tau must be above 0"):
        softmax_pairs(torch.zeros(1, 2), torch.zeros(1, 2), tau=0.0)
