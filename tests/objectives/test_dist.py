"""DIST: correlations along classes and along the batch, against scipy."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.errors import UserError
from grkd.losses import standardized
from grkd.objectives import Batch, combine


def a_batch(rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(student=student, teacher=2 * teacher, labels=torch.arange(rows))


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("dist", **options).terms(batch))


def relation(student: Tensor, teacher: Tensor) -> float:
    """1 - the mean correlation of the rows."""
    return 1 - sum(pearsonr(s, t)[0] for s, t in zip(student, teacher, strict=True)) / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("squared", [True, False])
def test_equals_the_papers_formula(temperature: float, squared: bool) -> None:
    batch = a_batch()
    p, q = (batch.student / temperature).softmax(-1), (batch.teacher / temperature).softmax(-1)
    scale = temperature**2 if squared else 1.0
    expected = scale * (3 * relation(p, q) + 0.5 * relation(p.T, q.T))
    labelled = cross_entropy(batch.student, batch.labels).item()
    options = {"inter_class_weight": 3.0, "intra_class_weight": 0.5, "label_weight": 0.7}
    found = loss_of(batch, temperature=temperature, t_squared=squared, **options)
    assert found.item() == pytest.approx(expected + 0.7 * labelled, rel=1e-10)


def test_a_teacher_on_another_scale_is_matched() -> None:
    """The sense of DIST: probabilities need not be equal, only linearly related."""
    teacher = a_batch().teacher
    probabilities = teacher.softmax(-1)
    student = (0.5 * probabilities + 0.5 / 6).log()
    batch = Batch(student=student, teacher=teacher)
    assert loss_of(batch, label_weight=0.0).abs() < 1e-14
    assert loss_of(replace(batch, student=teacher / 2), label_weight=0.0) > 1e-3


def test_masked_rows_and_classes_leave_the_columns() -> None:
    batch = a_batch()
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1] = False
    mask[:, 4] = False
    found = loss_of(replace(batch, mask=mask), label_weight=0.0)
    kept, classes = [0, 2, 3, 4], [0, 1, 2, 3, 5]
    smaller = Batch(student=batch.student[kept][:, classes], teacher=batch.teacher[kept][:, classes])
    torch.testing.assert_close(found, loss_of(smaller, label_weight=0.0))


def test_a_class_that_exists_in_one_row_is_not_counted() -> None:
    batch = a_batch(3)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:2, 5] = False
    p, q = (scores.masked_fill(~mask, -torch.inf).softmax(-1)[:, :5].T for scores in (batch.student, batch.teacher))
    options = {"inter_class_weight": 0.0, "intra_class_weight": 1.0, "label_weight": 0.0}
    assert loss_of(replace(batch, mask=mask), **options).item() == pytest.approx(relation(p, q))
    one = Batch(student=batch.student[:1], teacher=batch.teacher[:1])
    assert loss_of(one, **options) == 0


def test_rows_depend_on_each_other_only_through_the_classes() -> None:
    assert objectives.load("dist").couples_rows
    assert not objectives.load("dist", intra_class_weight=0.0).couples_rows
    batch = a_batch()
    rows = {term.name: term.rows for term in objectives.load("dist").terms(batch)}
    assert len(set(rows["intra_class"].tolist())) == 1  # every row carries the batch's value
    assert len(set(rows["inter_class"].tolist())) == 5


def test_standardized_scores() -> None:
    batch = a_batch()
    scaled = replace(batch, student=standardized(batch.student), teacher=standardized(batch.teacher))
    found = loss_of(batch, standardize=True, label_weight=0.0)
    torch.testing.assert_close(found, loss_of(scaled, label_weight=0.0))


def test_labels_are_needed_unless_their_weight_is_0() -> None:
    batch = replace(a_batch(), labels=None)
    with pytest.raises(ValueError, match="labels"):
        loss_of(batch)
    assert loss_of(batch, label_weight=0.0).isfinite()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"label_weight": -1.0},
        {"intra_class_weight": -1.0},
        {"inter_class_weight": 0.0, "intra_class_weight": 0.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^dist: .*{next(iter(options))}"):
        objectives.load("dist", **options)
