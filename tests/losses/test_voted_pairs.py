"""Given targets of pairs against plain loops in float64: votes, abstentions, tiers, masks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.losses import group_relative, voted_pairs

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def a_case(rows: int = 4, n: int = 5, seed: int = 0) -> Case:
    """Student, targets, weights (a third of them 0) and mask."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    targets = torch.rand(rows, n, n, generator=generator, dtype=torch.float64)
    weights = torch.randint(0, 3, (rows, n, n), generator=generator).double()
    mask = torch.rand(rows, n, generator=generator) < 0.8
    mask[-1] = False
    return student, targets, weights, mask


def by_hand(s: list[float], q: list[list[float]], w: list[list[float]], tau: float, normalize: str) -> float:
    total = weight = 0.0
    for i in range(len(s)):
        for j in range(i + 1, len(s)):
            d = (s[i] - s[j]) / tau
            total += w[i][j] * (q[i][j] * math.log1p(math.exp(-d)) + (1 - q[i][j]) * math.log1p(math.exp(d)))
            weight += w[i][j]
    return total / (weight if normalize == "pairs" else len(s)) if weight else 0.0


@given(
    seed=st.integers(0, 50), tau=st.sampled_from([0.1, 1.0, 3.0]), normalize=st.sampled_from(["pairs", "candidates"])
)
def test_equals_plain_loops(seed: int, tau: float, normalize: str) -> None:
    student, targets, weights, mask = a_case(seed=seed)
    found, counted = voted_pairs(student, targets, weights, mask=mask, tau=tau, normalize=normalize)
    for row, exists in enumerate(mask):
        here = exists.nonzero().squeeze(-1)
        q, w = (x[row][here][:, here].tolist() for x in (targets, weights))
        assert found[row].item() == pytest.approx(by_hand(student[row, here].tolist(), q, w, tau, normalize))
        assert counted[row].item() == any(w[i][j] > 0 for i in range(len(w)) for j in range(i + 1, len(w)))


@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_one_strict_order_is_the_group_relative_loss(normalize: str) -> None:
    student, _, _, mask = a_case()
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    targets = (teacher.unsqueeze(-1) > teacher.unsqueeze(-2)).double()
    options = {"mask": mask, "tau": 0.3, "normalize": normalize}
    expected = group_relative(student, teacher, **options)
    for weights in (None, torch.full((4, 5, 5), 7.0, dtype=torch.float64)):
        scale = 7.0 if weights is not None and normalize == "candidates" else 1.0
        found, _ = voted_pairs(student, targets, weights, **options)
        torch.testing.assert_close(found, scale * expected, rtol=1e-12, atol=1e-13)


def test_half_the_votes_each_way_pull_towards_a_tie() -> None:
    student = torch.tensor([[2.0, -1.0]], requires_grad=True)
    loss, _ = voted_pairs(student, torch.full((1, 2, 2), 0.5))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient[0, 0] > 0 > gradient[0, 1]
    even, _ = voted_pairs(torch.zeros(1, 2), torch.full((1, 2, 2), 0.5))
    assert even.item() == pytest.approx(math.log(2))


def test_gradcheck_and_what_is_not_compared_is_not_read() -> None:
    student, targets, weights, mask = a_case()
    assert torch.autograd.gradcheck(
        lambda s: voted_pairs(s, targets, weights, mask=mask, tau=0.7)[0], student.clone().requires_grad_()
    )
    leaf = student.clone().requires_grad_()
    clean = voted_pairs(leaf, targets, weights, mask=mask)[0]
    (gradient,) = torch.autograd.grad(clean.sum(), leaf)
    silent = (weights == 0) | ~(mask.unsqueeze(-1) & mask.unsqueeze(-2)) | torch.ones(5, 5).tril().bool()
    dirty = student.masked_fill(~mask, torch.nan).requires_grad_()
    found = voted_pairs(dirty, targets.masked_fill(silent, torch.nan), weights, mask=mask)[0]
    assert torch.equal(found, clean)
    assert torch.equal(torch.autograd.grad(found.sum(), dirty)[0], gradient)
    assert (gradient[~mask] == 0).all()


def test_scores_of_large_size_stay_finite_and_bfloat16_becomes_float32() -> None:
    student, targets, weights, mask = (x.float() if x.is_floating_point() else x for x in a_case())
    leaf = (1e4 * student.sign()).bfloat16().requires_grad_()
    found, _ = voted_pairs(leaf, targets, weights, mask=mask)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), leaf)[0].isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    student, targets, weights, _ = a_case()
    with pytest.raises((ValueError, TypeCheckError)):
        voted_pairs(student, targets[:, :4], weights)
    with pytest.raises((ValueError, TypeCheckError)):
        voted_pairs(student, targets, weights[:1])
    with pytest.raises(UserError, match="tau must be above 0"):
        voted_pairs(student, targets, tau=0.0)
    with pytest.raises((UserError, TypeCheckError), match="normalize"):
        voted_pairs(student, targets, normalize="rows")
