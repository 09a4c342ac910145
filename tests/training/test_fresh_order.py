"""The order of groups sampled in training: votes, missing opinions, and who is asked at all."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.test_fresh_groups import (
    N,
    by_first,
    by_length,
    largest_difference,
    made,
    responses,
    weights,
    words,
)


def test_votes_of_several_rankers_reach_the_pairs(tmp_path: Path) -> None:
    trainer = made(tmp_path, panel=[by_length, by_first], combine="votes", max_steps=1)
    batch = next(iter(trainer.get_train_dataloader()))
    (renewed,) = trainer.rows.renew(trainer.model, [batch], trainer.objective, seed=0, places=[(0, 0)])
    found = trainer.rows.forward(trainer.model, renewed, levels=("response",)).batches["response"]
    texts = [words(ids) for ids in responses(renewed)]
    one, two = by_length(None, texts), by_first(None, texts)
    assert found.votes is not None
    for row in range(8):
        for i in range(N):
            for j in range(i + 1, N):
                a, b = row * N + i, row * N + j
                opinions = [x[a] > x[b] for x in (one, two) if None not in (x[a], x[b]) and x[a] != x[b]]
                assert float(found.votes.weights[row, i, j]) == len(opinions)
                if opinions:
                    assert float(found.votes.targets[row, i, j]) == pytest.approx(sum(opinions) / len(opinions))


@pytest.mark.parametrize("method", ["grkd", "grpo", "dpo", "simpo", "pro", "pad"])
def test_groups_that_nobody_has_an_opinion_on_teach_no_order(method: str, tmp_path: Path) -> None:
    """A verifier that can read no answer of a whole step must not end the training."""

    def nobody(prompts: Any, completions: list[str], **columns: Any) -> list[None]:
        return [None] * len(completions)

    trainer = made(tmp_path, method, panel=[nobody], max_steps=2, per_device_train_batch_size=2)
    start = weights(trainer)
    trainer.train()
    difference = largest_difference(weights(trainer), start)
    assert difference > 0 if method == "grkd" else difference == 0  # grkd's anchor learns from the tokens


def test_methods_that_compare_nothing_ask_no_ranker(tmp_path: Path) -> None:
    """A judge costs money: only an order that is learnt from is asked for."""
    asked: list[int] = []

    def counted(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
        asked.append(len(completions))
        return [0.0] * len(completions)

    made(tmp_path / "opd", "opd", panel=[counted], max_steps=1).train()
    assert not asked
    made(tmp_path / "grpo", "grpo", panel=[counted], max_steps=1).train()
    assert asked == [8 * N]


def test_the_batch_holds_the_groups_as_they_were_ranked(tmp_path: Path) -> None:
    trainer = made(tmp_path, panel=[by_first], combine="weights")
    batch = next(iter(trainer.get_train_dataloader()))
    (renewed,) = trainer.rows.renew(trainer.model, [batch], trainer.objective, seed=0, places=[(0, 0)])
    for group in renewed["groups"]:
        assert list(group.teacher_scores) == [float(item.response_ids[0]) for item in group.items]
