"""Votes of several teachers on pairs of a row's candidates: counted one by one, and one teacher as its own order."""

import itertools

import pytest
import torch

from grkd import objectives
from grkd.objectives import Batch, Opinions, combine

WEIGHTS = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 3.0], [0.5, 0.0, 1.0]], dtype=torch.float64)


def opinions(*, unanimous: bool = False) -> Opinions:
    """Three teachers, three rows, five candidates; some scores tie, some teachers are not asked."""
    torch.manual_seed(0)
    scores = tuple(torch.randint(0, 4, (3, 5)).double() for _ in range(3))
    return Opinions(scores=scores, weights=WEIGHTS, unanimous=unanimous)


@pytest.mark.parametrize("unanimous", [False, True])
def test_votes_are_counted_pair_by_pair(unanimous: bool) -> None:
    given = opinions(unanimous=unanimous)
    group = torch.tensor([[4, 0, 2], [1, 3, 2], [0, 1, 4]])
    for indices in (None, group):
        found = given.votes(indices)
        assert found.weights is not None
        size = 5 if indices is None else 3
        for row, i, j in itertools.product(range(3), range(size), range(size)):
            one, two = (i, j) if indices is None else (int(indices[row, i]), int(indices[row, j]))
            for_, against = 0.0, 0.0
            for weight, scores in zip(WEIGHTS[:, row].tolist(), given.scores, strict=True):
                for_ += weight * (scores[row, one] > scores[row, two]).item()
                against += weight * (scores[row, one] < scores[row, two]).item()
            compared = not (unanimous and for_ and against)
            assert found.weights[row, i, j] == pytest.approx((for_ + against) if compared else 0.0)
            if for_ + against:
                assert found.targets[row, i, j] == pytest.approx(for_ / (for_ + against))


@pytest.mark.parametrize("pool", ["mean", "softmax"])
@pytest.mark.parametrize("unanimous", [False, True])
def test_one_teacher_votes_for_its_own_order(pool: str, unanimous: bool) -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 9).double().requires_grad_(), torch.randn(4, 9).double()
    options = {"ranking": [{"part": "pairs", "group": "top", "group_size": 5, "pool": pool}], "anchor": []}
    method = objectives.load("grkd", **options)
    assert method.takes_votes_on_rows
    plain = Batch(student=student, teacher=teacher, progress=1.0)
    one = Opinions(scores=(teacher,), weights=torch.full((1, 4), 2.5), unanimous=unanimous)
    voted = Batch(student=student, teacher=one.pooled(), progress=1.0, votes=one)
    losses = [combine(method.terms(batch)) for batch in (plain, voted)]
    torch.testing.assert_close(losses[0], losses[1])
    slopes = [torch.autograd.grad(loss, student)[0] for loss in losses]
    torch.testing.assert_close(slopes[0], slopes[1])


def test_teachers_that_contradict_leave_no_unanimous_pair() -> None:
    student, teacher = torch.randn(2, 4), torch.randn(2, 4)
    both = Opinions(scores=(teacher, -teacher), weights=torch.ones(2, 2), unanimous=True)
    method = objectives.load("grkd", ranking=[{"part": "pairs", "group": "all"}], anchor=[])
    (term,) = method.terms(Batch(student=student, teacher=both.pooled(), progress=1.0, votes=both))
    assert not term.counted.any()
    assert (term.rows == 0).all()


def test_pooled_is_the_weighted_mean() -> None:
    given = opinions()
    for row in range(3):
        own = WEIGHTS[:, row]
        wanted = sum(float(weight) * scores[row] for weight, scores in zip(own, given.scores, strict=True)) / own.sum()
        torch.testing.assert_close(given.pooled()[row], wanted)
