"""No distillation: plain cross-entropy on the labels."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.objectives import Batch, combine


def a_batch() -> Batch:
    student = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(student=student, labels=torch.tensor([0, 5, -100, 2, 2]))


def loss_of(batch: Batch) -> Tensor:
    return combine(objectives.load("ce").terms(batch))


def test_equals_torch_and_leaves_out_negative_labels() -> None:
    batch = a_batch()
    torch.testing.assert_close(loss_of(batch), cross_entropy(batch.student, batch.labels, ignore_index=-100))
    torch.testing.assert_close(loss_of(replace(batch, labels=torch.tensor([0, 5, -1, 2, 2]))), loss_of(batch))


def test_rows_left_out_get_no_gradient() -> None:
    batch = a_batch()
    student = batch.student.requires_grad_()
    loss_of(batch).backward()
    assert student.grad is not None
    assert (student.grad[2] == 0).all()
    assert student.grad[[0, 1, 3, 4]].abs().sum(-1).gt(0).all()


def test_masked_candidates_leave_the_softmax() -> None:
    batch = a_batch()
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[:, 1] = False
    labels = torch.tensor([0, 4, -100, 1, 1])  # the same candidates, counted without the second
    kept = batch.student[:, [0, 2, 3, 4, 5]]
    torch.testing.assert_close(loss_of(replace(batch, mask=mask)), cross_entropy(kept, labels))


def test_only_labels_left_out_gives_zero() -> None:
    assert loss_of(replace(a_batch(), labels=torch.full((5,), -100))) == 0


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        loss_of(replace(a_batch(), labels=None))


@pytest.mark.parametrize("shape", [(1,), (5, 1), (4,), ()])
def test_labels_never_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeCheckError), match="labels"):
        loss_of(replace(a_batch(), labels=torch.zeros(shape, dtype=torch.int64)))
