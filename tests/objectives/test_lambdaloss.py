"""LambdaLoss against plain loops in float64 and sentence-transformers."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grkd import objectives
from grkd.losses import at_once
from grkd.objectives import Batch
from tests.objectives._lists import a_list, peer_loss


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        made = function(*given, **(options or {}))
        self.entries = max(self.entries, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)), 0)
        return made


def by_hand(s: list[float], y: list[float], mu: float, k: int) -> float:
    n = len(s)
    discount = [math.log2(1 + place) for place in range(1, n + 2)]
    ideal = sum((2**grade - 1) / discount[p] for p, grade in enumerate(sorted(y, reverse=True)[:k]))
    order = sorted(range(n), key=lambda i: -s[i])
    total, count = 0.0, 0
    for p, i in enumerate(order):
        for q, j in enumerate(order):
            if y[i] > y[j] and (p < k or q < k):
                gain = abs(2 ** y[i] - 2 ** y[j]) / ideal
                apart = abs(p - q)
                swap = abs(1 / discount[p] - 1 / discount[q])
                weight = gain * (mu * (1 / discount[apart - 1] - 1 / discount[apart]) + swap)
                total += weight * math.log1p(math.exp(-(s[i] - s[j])))
                count += 1
    return total / count


@pytest.mark.parametrize("mu", [10.0, 0.0])
@pytest.mark.parametrize("k", [0, 3])
def test_equals_plain_loops_and_sentence_transformers(mu: float, k: int) -> None:
    batch = a_list(seed=3)
    (term,) = objectives.load("lambdaloss", mu=mu, k=k).terms(batch)
    tiers = sorted(set(batch.teacher[0].tolist()))
    grades = [4 * tiers.index(t) / (len(tiers) - 1) for t in batch.teacher[0].tolist()]
    assert term.rows.item() == pytest.approx(by_hand(batch.student[0].tolist(), grades, mu, k or 7), rel=1e-5)
    from sentence_transformers.cross_encoder import losses

    scheme: Any = losses.NDCGLoss2PPScheme(mu=mu) if mu else losses.LambdaRankScheme()
    options = {"weighting_scheme": scheme, "k": k or None, "reduction_log": "natural"}
    torch.testing.assert_close(term.rows[0], peer_loss("LambdaLoss", batch.student, torch.tensor([grades]), **options))


def test_grades_from_scores_are_stretched_over_the_list() -> None:
    student = torch.tensor([[0.0, 1.0, 2.0]])
    (stretched,) = objectives.load("lambdaloss", grades="scores").terms(
        Batch(student=student, teacher=torch.tensor([[10.0, 12.0, 18.0]]))
    )
    expected = by_hand([0.0, 1.0, 2.0], [0.0, 1.0, 4.0], 10.0, 3)
    assert stretched.rows.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [0, 4])
def test_tiles_are_the_whole(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    """Values and gradients of tiles are those of one piece and of differences; no tensor is larger than a tile."""
    torch.manual_seed(0)
    student = (3 * torch.randn(5, 40, dtype=torch.float64)).requires_grad_()
    teacher = torch.randint(6, (5, 40)).double()
    mask = torch.rand(5, 40) < 0.8
    mask[3] = False
    upstream = torch.rand(5, dtype=torch.float64)
    method = objectives.load("lambdaloss", k=k, sigma=1.7)

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        (term,) = method.terms(Batch(student=student, teacher=teacher, mask=mask))
        return term.rows.detach(), torch.autograd.grad((term.rows * upstream).sum(), student)[0]

    whole, gradient = found()
    monkeypatch.setattr(at_once, "_ENTRIES_CPU", 300)
    largest = Largest()
    with largest:
        rows, of_tiles = found()
    assert largest.entries <= 300
    torch.testing.assert_close((rows, of_tiles), (whole, gradient))
    shift = 1e-6 * torch.randn_like(student)
    with torch.no_grad():
        moved = [
            method.terms(Batch(student=student + sign * shift, teacher=teacher, mask=mask))[0].rows for sign in (1, -1)
        ]
    torch.testing.assert_close(
        ((moved[0] - moved[1]) * upstream).sum() / 2, (gradient * shift).sum(), rtol=1e-5, atol=0
    )
