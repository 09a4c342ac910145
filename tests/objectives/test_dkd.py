"""DKD: its two parts, their weights, the warm-up, and kd as a special case."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from grkd import objectives
from grkd.errors import UserError
from grkd.losses import decoupled_kl, standardized
from grkd.objectives import Batch, combine


def a_batch(progress: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(student=student, teacher=2 * teacher, labels=torch.tensor([0, 5, -100, 2, 2]), progress=progress)


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("dkd", **options).terms(batch))


def test_equals_the_formula() -> None:
    batch = a_batch()
    assert batch.teacher is not None
    assert batch.labels is not None
    target, others = decoupled_kl(batch.student, batch.teacher, batch.labels, temperature=4.0)
    labelled = cross_entropy(batch.student, batch.labels)
    expected = 16 * (target.sum() + 8 * others.sum()) / 4 + labelled  # four of five rows have a label
    torch.testing.assert_close(loss_of(batch), expected)
    expected = 9 * (0.5 * decoupled_kl(batch.student, batch.teacher, batch.labels, temperature=3.0)[0].sum() / 4)
    found = loss_of(batch, alpha=0.5, beta=0.0, temperature=3.0, label_weight=0.0)
    torch.testing.assert_close(found, expected)


def test_alpha_1_and_beta_1_minus_p_of_the_label_is_kd() -> None:
    # One row at a time, since beta is one number.
    batch = a_batch()
    for row in (0, 1, 3, 4):
        one = Batch(
            student=batch.student[[row]], teacher=batch.teacher[[row]], labels=batch.labels[[row]], progress=1.0
        )
        probabilities = (one.teacher / 2).softmax(-1)
        beta = 1 - probabilities[0, one.labels[0]].item()
        kl = kl_div((one.student / 2).log_softmax(-1), probabilities, reduction="sum")
        torch.testing.assert_close(loss_of(one, beta=beta, temperature=2.0, label_weight=0.0), 4 * kl)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_the_weight_rises_over_the_warm_up(progress: float, share: float) -> None:
    whole = loss_of(a_batch(1.0), label_weight=0.0, warmup=0.4)
    torch.testing.assert_close(loss_of(a_batch(progress), label_weight=0.0, warmup=0.4), share * whole)
    torch.testing.assert_close(loss_of(a_batch(progress), label_weight=0.0, warmup=0.0), whole)


def test_standardized_scores() -> None:
    batch = a_batch()
    scaled = replace(batch, student=standardized(batch.student), teacher=standardized(batch.teacher))
    options = {"label_weight": 0.0, "temperature": 2.0}
    torch.testing.assert_close(loss_of(batch, standardize=True, **options), loss_of(scaled, **options))
    # The labels' term keeps the scores as they are.
    alone = loss_of(batch, standardize=True, temperature=2.0) - loss_of(batch, standardize=True, **options)
    torch.testing.assert_close(alone, cross_entropy(batch.student, batch.labels))


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="labels"):
        loss_of(replace(a_batch(), labels=None), label_weight=0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"label_weight": -1.0},
        {"alpha": -1.0},
        {"alpha": 0.0, "beta": 0.0},
        {"warmup": 1.0},
        {"warmup": -0.1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^dkd: .*{next(iter(options))}"):
        objectives.load("dkd", **options)


def test_without_weight_the_labels_cross_entropy_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = objectives.load("dkd", label_weight=0.0).terms(a_batch())

    def unwanted(*_: object) -> None:
        raise AssertionError("computed in vain")

    monkeypatch.setattr("grkd.objectives.methods.dkd.label_term", unwanted)
    for term, same in zip(objectives.load("dkd", label_weight=0.0).terms(a_batch()), expected, strict=True):
        assert torch.equal(term.rows, same.rows)
        assert torch.equal(term.counted, same.counted)
