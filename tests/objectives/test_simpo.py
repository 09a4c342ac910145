"""SimPO against its formula in plain Python and against TRL's own loss."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine
from tests.objectives._pairs import ENDS, a_batch, only_the_ends


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("simpo", **options).terms(batch))


@pytest.mark.parametrize(("beta", "ratio", "weight"), [(2.0, 0.5, 0.0), (10.0, 0.3, 0.25)])
def test_equals_the_formula(beta: float, ratio: float, weight: float) -> None:
    batch = a_batch()
    scores = batch.student.tolist()
    expected = []
    for row, pair in enumerate(ENDS):
        if pair:
            best, worst = scores[row][pair[0]], scores[row][pair[1]]
            margin = beta * (best - worst) - ratio * beta
            expected.append(math.log1p(math.exp(-margin)) - weight * best)
    found = loss_of(batch, beta=beta, gamma_beta_ratio=ratio, sft_weight=weight)
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_the_ends_alone_give_the_same() -> None:
    batch = a_batch()
    torch.testing.assert_close(loss_of(only_the_ends(batch), sft_weight=0.5), loss_of(batch, sft_weight=0.5))


def test_neither_reference_nor_lengths_are_used() -> None:
    batch = a_batch()
    torch.testing.assert_close(loss_of(replace(batch, reference=None, lengths=None)), loss_of(batch))


def test_gradcheck() -> None:
    batch = a_batch()
    assert torch.autograd.gradcheck(
        lambda student: loss_of(replace(batch, student=student), sft_weight=0.2), batch.student.requires_grad_()
    )


def test_groups_without_a_pair_do_not_count() -> None:
    for term in objectives.load("simpo", sft_weight=0.1).terms(a_batch()):
        assert term.counted.tolist() == [True, True, True, True, False, False]


def test_equals_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer

    batch = only_the_ends(a_batch())
    trainer = SimpleNamespace(
        alpha=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        loss_type="simpo",
        simpo_gamma=1.25,
        beta=2.5,
        label_smoothing=0.0,
    )
    rows, *_ = CPOTrainer.cpo_loss(trainer, batch.student[:4, 0], batch.student[:4, 1])
    torch.testing.assert_close(loss_of(batch, beta=2.5, gamma_beta_ratio=0.5), rows.mean())


@pytest.mark.parametrize(("option", "value"), [("beta", 0.0), ("gamma_beta_ratio", -0.1), ("sft_weight", -0.1)])
def test_values_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^simpo: {option} .*{value}"):
        objectives.load("simpo", **{option: value})
