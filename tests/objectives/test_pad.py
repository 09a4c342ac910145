"""PAD against brute force over all permutations of a group."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine
from tests.objectives._pairs import MASK, TEACHER, a_batch


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("pad", **options).terms(batch))


def probability(scores: list[float], order: Any, beta: float) -> float:
    powers = [math.exp(beta * score) for score in scores]
    found = 1.0
    for place, chosen in enumerate(order):
        found *= powers[chosen] / sum(powers[other] for other in order[place:])
    return found


def groups(batch: Batch) -> list[tuple[list[float], list[float]]]:
    """Student and teacher scores of each group's responses."""
    kept = [[k for k in range(4) if MASK[row][k]] for row in range(6)]
    return [
        ([batch.student[row, k].item() for k in places], [TEACHER[row][k] for k in places])
        for row, places in enumerate(kept)
    ]


def divergence(student: list[float], teacher: list[float], beta: float) -> float:
    total = 0.0
    for order in permutations(range(len(student))):
        q, p = probability(student, order, beta), probability(teacher, order, beta)
        total += sum(0.5 * part * math.log(2 * part / (p + q)) for part in (p, q) if part)
    return total


@pytest.mark.parametrize("beta", [0.5, 1.0, 10.0])
def test_distribution_equals_brute_force(beta: float) -> None:
    batch = a_batch()
    expected = [
        divergence(student, teacher, beta) for student, teacher in groups(batch)[:5]
    ]  # the last has one response
    assert loss_of(batch, beta=beta).item() == pytest.approx(sum(expected) / 5, rel=1e-9)


@pytest.mark.parametrize("candidates", [2, 5, 6, 7])
def test_larger_groups_are_ranked_whole_where_ranks_allow(candidates: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = Batch(level="response", student=student, teacher=teacher)
    expected = divergence(student[0].tolist(), teacher[0].tolist(), 1.0)
    assert loss_of(batch, beta=1.0, ranks=6).item() == pytest.approx(expected, rel=1e-9)
    if candidates == 7:
        assert loss_of(batch, beta=1.0, ranks=3) < expected  # fewer places tell less apart


def test_rows_do_not_mix() -> None:
    """The divergence of a batch is the mean of its groups'."""
    batch = a_batch()
    parts = []
    for row in range(5):
        one = {name: getattr(batch, name)[row : row + 1] for name in ("student", "teacher", "mask")}
        parts.append(loss_of(Batch(level="response", **one)))
    torch.testing.assert_close(torch.stack(parts).mean(), loss_of(batch))


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_ranking_equals_its_probability(beta: float) -> None:
    batch = a_batch()
    expected = []
    for student, teacher in groups(batch)[:4]:  # the others have no pair
        order = sorted(range(len(teacher)), key=lambda k: -teacher[k])
        expected.append(-math.log(probability(student, order, beta)))
    found = loss_of(batch, beta=beta, target="ranking")
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_which_groups_count() -> None:
    (term,) = objectives.load("pad").terms(a_batch())
    assert term.counted.tolist() == [True] * 5 + [False]  # all tied is a distribution too
    (term,) = objectives.load("pad", target="ranking").terms(a_batch())
    assert term.counted.tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("target", ["distribution", "ranking"])
def test_gradcheck(target: str) -> None:
    batch = a_batch()
    assert torch.autograd.gradcheck(
        lambda student: loss_of(replace(batch, student=student), beta=2.0, target=target),
        batch.student.requires_grad_(),
    )


def test_descending_the_loss_finds_the_teachers_distribution() -> None:
    """Up to a shift of all scores of a group, which no ranking can see."""
    teacher = torch.tensor([[-1.0, -0.8, -1.3, -0.9]], dtype=torch.float64)
    student = torch.tensor([[-0.9, -1.0, -0.8, -1.2]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss_of(Batch(level="response", student=student, teacher=teacher)).backward()
        optimizer.step()
    found = student.detach() - student.detach().mean()
    torch.testing.assert_close(found, teacher - teacher.mean(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("option", "value"), [("beta", 0.0), ("ranks", 0), ("ranks", 7)])
def test_values_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^pad: {option} .*{value}"):
        objectives.load("pad", **{option: value})


def test_too_many_rankings_are_refused() -> None:
    scores = torch.zeros(1, 10)
    with pytest.raises(UserError, match=r"10 responses have 151200 rankings of 6 places .*make ranks smaller"):
        loss_of(Batch(level="response", student=scores, teacher=scores), ranks=6)
