"""RKD: on features or logits, weights and what is missing. tests/losses/test_relational.py has the formulas."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.errors import UserError
from grkd.losses import relational_angle, relational_distance
from grkd.objectives import Batch, Features, combine

ALL = torch.ones(5, dtype=torch.bool)


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    student, teacher, own, others = (
        torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (6, 6, 3, 4)
    )
    return Batch(
        student=student, teacher=teacher, labels=torch.arange(5), features=Features(student=own, teacher=others)
    )


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("rkd", **options).terms(batch))


@pytest.mark.parametrize("on", ["features", "logits"])
def test_is_the_sum_of_its_parts(on: str) -> None:
    batch = a_batch()
    points = (batch.features.student, batch.features.teacher) if on == "features" else (batch.student, batch.teacher)
    distance, angle = (loss(*points, counted=ALL).mean() for loss in (relational_distance, relational_angle))
    labelled = cross_entropy(batch.student, batch.labels)
    torch.testing.assert_close(loss_of(batch, on=on), 25 * distance + 50 * angle + labelled)
    found = loss_of(batch, on=on, distance_weight=2.0, angle_weight=0.0, label_weight=0.0)
    torch.testing.assert_close(found, 2 * distance)


def test_features_get_the_gradient_and_rows_that_do_not_count_get_none() -> None:
    batch = a_batch()
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[2] = False
    features = batch.features.student.masked_fill(~mask[:, :1], math.nan).requires_grad_()
    student = batch.student.clone().requires_grad_()
    loss = loss_of(
        replace(batch, student=student, features=replace(batch.features, student=features), mask=mask), label_weight=0.0
    )
    (gradient,) = torch.autograd.grad(loss, features)
    assert (gradient[2] == 0).all()
    assert (gradient[[0, 1, 3, 4]].abs().sum(-1) > 0).all()
    few = [0, 1, 3, 4]
    kept = replace(
        batch,
        student=batch.student[few],
        teacher=batch.teacher[few],
        labels=batch.labels[few],
        features=Features(student=batch.features.student[few], teacher=batch.features.teacher[few]),
    )
    torch.testing.assert_close(loss.detach(), loss_of(kept, label_weight=0.0))


def test_a_turned_and_scaled_copy_of_the_teacher_is_at_the_minimum() -> None:
    batch = a_batch()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    features = (3 * batch.features.teacher @ turn).requires_grad_()
    loss = loss_of(replace(batch, features=replace(batch.features, student=features)), label_weight=0.0)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss < 1e-20
    assert gradient.abs().max() < 1e-12


def test_it_says_what_it_needs() -> None:
    assert objectives.load("rkd").needs_features
    assert not objectives.load("rkd", on="logits").needs_features
    assert objectives.load("rkd").couples_rows
    assert not objectives.load("kd").needs_features
    batch = replace(a_batch(), features=None)
    with pytest.raises(ValueError, match=r"features .*set on: logits"):
        loss_of(batch)
    assert loss_of(batch, on="logits").isfinite()
    with pytest.raises(ValueError, match="labels"):
        loss_of(replace(batch, labels=None), on="logits")
    assert loss_of(replace(batch, labels=None), on="logits", label_weight=0.0).isfinite()


@pytest.mark.parametrize(
    "options",
    [{"on": "pixels"}, {"label_weight": -1.0}, {"angle_weight": -1.0}, {"distance_weight": 0.0, "angle_weight": 0.0}],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^rkd: .*{next(iter(options))}"):
        objectives.load("rkd", **options)
