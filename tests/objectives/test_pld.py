"""PLD and ListMLE against the ranking's likelihood in plain Python."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(5, 6, generator=generator) < 0.8
    labels = torch.tensor([1, 5, 0, 2, 2])
    mask[torch.arange(5), labels] = True
    return Batch(student=student, teacher=2 * teacher, labels=labels, mask=mask)


def rows_of(batch: Batch, **options: Any) -> Tensor:
    (term,) = objectives.load("pld", **options).terms(batch)
    return term.weight * term.rows


def by_hand(s: list[float], t: list[float], label: int | None, temperature: float | None) -> float:
    """Place after place; temperature None: every place weighs 1."""
    order = sorted(range(len(s)), key=lambda k: (k != label, -t[k]))
    total = 0.0
    for place, k in enumerate(order):
        left = math.log(sum(math.exp(s[i]) for i in order[place:]))
        weight = 1.0
        if temperature is not None:
            weight = math.exp(t[k] / temperature) / sum(math.exp(value / temperature) for value in t)
        total += weight * (left - s[k])
    return total


@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize("temperature", [None, 1.0, 3.0])
def test_equals_plain_loops(label_first: bool, temperature: float | None) -> None:
    batch = a_batch()
    options = {"weight": "uniform"} if temperature is None else {"temperature": temperature}
    found = rows_of(batch, label_first=label_first, list_weight=0.5, **options)
    for row, exists in enumerate(batch.mask):
        label = int(exists[: batch.labels[row]].sum()) if label_first else None
        s, t = batch.student[row, exists].tolist(), batch.teacher[row, exists].tolist()
        assert found[row].item() == pytest.approx(0.5 * by_hand(s, t, label, temperature), rel=1e-10)


def test_with_a_teacher_sure_of_the_label_it_is_cross_entropy() -> None:
    batch = replace(a_batch(), mask=None)
    teacher = torch.full((5, 6), -500.0, dtype=torch.float64).scatter(-1, batch.labels.unsqueeze(-1), 500.0)
    found = combine(objectives.load("pld").terms(replace(batch, teacher=teacher)))
    torch.testing.assert_close(found, cross_entropy(batch.student, batch.labels))


def test_the_label_leads_whatever_the_teacher_says() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    batch = Batch(student=student, teacher=teacher, labels=torch.tensor([0]))
    z = math.e + 2
    places = [math.log(z) - 1, math.log(2), 0.0]  # the label, then 2, then 1
    assert rows_of(batch, weight="uniform").item() == pytest.approx(sum(places))
    places = [math.log(z), math.log(math.e + 1), 0.0]  # 2, 1, the label
    assert rows_of(batch, weight="uniform", label_first=False).item() == pytest.approx(sum(places))


@pytest.mark.parametrize("options", [{}, {"weight": "uniform", "label_first": False}], ids=str)
def test_gradcheck_and_shifts(options: dict[str, Any]) -> None:
    batch = a_batch()
    assert torch.autograd.gradcheck(
        lambda s: rows_of(replace(batch, student=s), **options), batch.student.clone().requires_grad_()
    )
    shift = torch.arange(5, dtype=torch.float64).unsqueeze(-1)
    moved = replace(batch, student=batch.student + shift, teacher=batch.teacher - shift)
    torch.testing.assert_close(rows_of(moved, **options), rows_of(batch, **options))


def test_rows_without_a_label_count_where_the_label_is_not_asked_for() -> None:
    batch = replace(a_batch(), labels=torch.tensor([1, 5, -100, 2, 2]))
    assert objectives.load("pld").terms(batch)[0].counted.tolist() == [True, True, False, True, True]
    assert objectives.load("pld", label_first=False).terms(batch)[0].counted.all()
    with pytest.raises(ValueError, match="labels"):
        rows_of(replace(batch, labels=None))
    assert rows_of(replace(batch, labels=None), label_first=False).isfinite().all()


def test_a_labels_term_adds_up() -> None:
    batch = replace(a_batch(), mask=None)
    plain, more = (combine(objectives.load("pld", label_weight=weight).terms(batch)) for weight in (0.0, 0.5))
    torch.testing.assert_close(more - plain, 0.5 * cross_entropy(batch.student, batch.labels))


@pytest.mark.parametrize(
    "options", [{"weight": "rank"}, {"temperature": 0.0}, {"list_weight": 0.0}, {"label_weight": -1.0}], ids=str
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^pld: .*{next(iter(options))}"):
        objectives.load("pld", **options)


def test_without_weight_the_labels_cross_entropy_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = objectives.load("pld", label_weight=0.0).terms(a_batch())

    def unwanted(*_: object) -> None:
        raise AssertionError("computed in vain")

    monkeypatch.setattr("grkd.objectives.methods.pld.label_term", unwanted)
    for term, same in zip(objectives.load("pld", label_weight=0.0).terms(a_batch()), expected, strict=True):
        assert torch.equal(term.rows, same.rows)
        assert torch.equal(term.counted, same.counted)
