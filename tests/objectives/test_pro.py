"""PRO against numbers worked out by hand and loops over the ranks."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine
from tests.objectives._pairs import MASK, TEACHER, a_batch


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("pro", **options).terms(batch))


def three() -> Batch:
    """Scores log 1, log 2, log 4; the teacher ranks the third first, then the first; rewards 0, -1 and 2."""
    return Batch(
        level="response",
        student=torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64).log(),
        teacher=torch.tensor([[0.0, -1.0, 2.0]], dtype=torch.float64),
        lengths=torch.tensor([[7, 5, 3]]),
    )


def test_by_hand() -> None:
    # First 4 / (4 + 1 + 2), then 1 / (1 + 2).
    assert loss_of(three(), sft_weight=0.0).item() == pytest.approx(math.log(7 / 4) + math.log(3))


def test_temperatures_by_hand() -> None:
    # Inverse temperatures: the third is 2 above the first and 3 above the second (and 3 its own); the first 1 above the
    # second: 4^3 / (4^3 + 1^2 + 2^3), then 1 / (1 + 2).
    expected = math.log((64 + 1 + 8) / 64) + math.log(3)
    assert loss_of(three(), sft_weight=0.0, reward_temperatures=True).item() == pytest.approx(expected)


def test_best_response_by_hand() -> None:
    # The third response: mean log-probability log 4, 3 tokens; (n - 1)^2 = 4.
    ranking = math.log(7 / 4) + math.log(3)
    assert loss_of(three()).item() == pytest.approx(ranking - 0.05 * 4 * 3 * math.log(4))
    found = loss_of(three(), sft_weight=0.5, sft_log_prob="mean")
    assert found.item() == pytest.approx(ranking - 0.5 * 4 * math.log(4))


def by_loops(scores: list[float], rewards: list[float], temperatures: bool) -> float:
    total = 0.0
    for k, reward in enumerate(rewards):
        worse = [i for i, other in enumerate(rewards) if other < reward]
        if not worse:
            continue
        factor = max(reward - rewards[i] for i in worse) if temperatures else 1.0
        own = math.exp(scores[k] * factor)
        rest = sum(math.exp(scores[i] * (reward - rewards[i] if temperatures else 1.0)) for i in worse)
        total -= math.log(own / (own + rest))
    return total


@pytest.mark.parametrize("temperatures", [False, True])
def test_groups_with_ties_and_missing_responses(temperatures: bool) -> None:
    batch = a_batch()
    expected, best_log_probs = [], []
    assert batch.lengths is not None
    for row, best in enumerate([1, 0, 1, 1]):  # the other two have no pair
        kept = [k for k in range(4) if MASK[row][k]]
        scores, rewards = ([values[k] for k in kept] for values in (batch.student[row].tolist(), TEACHER[row]))
        expected.append(by_loops(scores, rewards, temperatures))
        best_log_probs.append((len(kept) - 1) ** 2 * (batch.student * batch.lengths)[row, best].item())
    found = loss_of(batch, sft_weight=0.0, reward_temperatures=temperatures)
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-12)
    found = loss_of(batch, sft_weight=0.1, reward_temperatures=temperatures)
    assert found.item() == pytest.approx((sum(expected) - 0.1 * sum(best_log_probs)) / 4, rel=1e-12)


def test_the_order_of_tied_responses_does_not_matter() -> None:
    batch = a_batch()
    names = ("student", "teacher", "mask", "lengths")
    still = {name: getattr(batch, name)[3:4] for name in names}
    moved = {name: value[:, [0, 2, 1, 3]] for name, value in still.items()}  # exchanges the two on top
    losses = [loss_of(Batch(level="response", **one), sft_weight=0.0) for one in (still, moved)]
    torch.testing.assert_close(*losses)


def test_gradcheck() -> None:
    batch = a_batch()
    student = batch.student.requires_grad_()
    for temperatures in (False, True):
        options = {"reward_temperatures": temperatures, "sft_weight": 0.1}
        assert torch.autograd.gradcheck(lambda s, o=options: loss_of(replace(batch, student=s), **o), student)


def test_lengths_are_needed_for_a_sum_over_tokens() -> None:
    batch = replace(a_batch(), lengths=None)
    with pytest.raises(ValueError, match="pro needs the lengths of responses"):
        loss_of(batch)
    assert loss_of(batch, sft_log_prob="mean").isfinite()


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"^pro: sft_weight must be 0 or more, got -0.1"):
        objectives.load("pro", sft_weight=-0.1)
    with pytest.raises(UserError, match=r"^pro: sft_log_prob must be one of sum, mean, got 'best'"):
        objectives.load("pro", sft_log_prob="best")
