"""Forms of a pair: values by hand, slopes by autograd, and a form of one's own that no layer takes for another."""

import importlib
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

import grkd.kernels
from grkd.errors import UserError
from grkd.kernels import all_pairs, distillation_head, pairs_head
from grkd.kernels.weighted_pairs import weighted_pairs as fast_weighted_pairs
from grkd.losses import HARD, PAIR_FORMS, PairForm, group_relative, pair_form, weighted_pairs

HINGE = PairForm("hinge", lambda d, _: (1 - d).relu(), lambda d, _: -(d < 1).to(d.dtype))


def test_values_by_hand() -> None:
    d, wanted = torch.tensor([0.5]), torch.tensor([2.0])
    q = 1 / (1 + math.exp(-2.0))
    hard = math.log1p(math.exp(-0.5))
    values = {"hard": hard, "soft": q * hard + (1 - q) * math.log1p(math.exp(0.5)), "margin": 1.5**2 / 8}
    assert {name: form.value(d, wanted).item() for name, form in PAIR_FORMS.items()} == pytest.approx(values)


@pytest.mark.parametrize("form", [*PAIR_FORMS.values(), HINGE], ids=lambda form: form.name)
def test_the_slope_is_the_derivative_of_the_value(form: PairForm) -> None:
    d = torch.linspace(-60, 60, 101, dtype=torch.float64).requires_grad_()
    wanted = torch.linspace(0.1, 50, 101, dtype=torch.float64)
    (slope,) = torch.autograd.grad(form.value(d, wanted).sum(), d)
    torch.testing.assert_close(form.slope(d.detach(), wanted), slope, rtol=1e-12, atol=1e-12)


def test_an_unknown_name_is_an_error_in_every_layer() -> None:
    scores, hidden, weight = torch.randn(2, 5), torch.randn(2, 3), torch.randn(5, 3)
    group = torch.tensor([[0, 1], [2, 3]])
    layers: list[Any] = [
        lambda form: pair_form(form),
        lambda form: group_relative(scores, scores, pair_target=form),
        lambda form: weighted_pairs(scores, scores, importance=scores, pair_target=form),
        lambda form: fast_weighted_pairs(scores, scores, importance=scores, pair_target=form),
        lambda form: all_pairs(scores, scores, pair_target=form),
        lambda form: distillation_head(hidden, weight, hidden, weight, alpha=0.5, pair_target=form),
        lambda form: pairs_head(hidden, weight, group, teacher_scores=scores[:, :2], pair_target=form),
    ]
    for layer in layers:
        with pytest.raises(UserError, match=r"unknown pair_target 'hart' \(did you mean 'hard'\?\); known: hard, soft"):
            layer("hart")


@pytest.fixture
def kernels_that_may_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every kernel would run, each of which fails the test."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was asked")

    for name in ("all_pairs", "weighted_pairs", "_head_call"):
        module = importlib.import_module(f"grkd.kernels.{name}")
        monkeypatch.setattr(module, "use_triton", lambda _, implementation: implementation != "torch")
    for name in ("_all_pairs_triton", "_weighted_triton", "_head_triton"):
        fake = types.SimpleNamespace(run=refused)
        monkeypatch.setitem(sys.modules, f"grkd.kernels.{name}", fake)
        monkeypatch.setattr(grkd.kernels, name, fake, raising=False)


def by_hand(s: Tensor, t: Tensor, importance: Tensor | None = None) -> Tensor:
    """Mean hinge over the pairs of each row."""
    found = []
    for row in range(len(s)):
        total = weights = 0.0
        for i in range(s.shape[1]):
            for j in range(s.shape[1]):
                if t[row, i] > t[row, j]:
                    weight = 1.0 if importance is None else abs(float(importance[row, i] - importance[row, j]))
                    total += weight * max(0.0, 1 - float(s[row, i] - s[row, j]))
                    weights += weight
        found.append(total / weights)
    return torch.tensor(found, dtype=s.dtype)


@pytest.mark.usefixtures("kernels_that_may_not_run")
def test_a_form_of_ones_own_reaches_no_kernel_and_is_computed_as_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, importance = (torch.randn(3, 6, generator=generator) for _ in range(3))
    expected = by_hand(student, teacher)
    torch.testing.assert_close(group_relative(student, teacher, pair_target=HINGE), expected)
    torch.testing.assert_close(all_pairs(student, teacher, pair_target=HINGE), expected)
    weighted = fast_weighted_pairs(student, teacher, importance=importance, pair_target=HINGE)
    torch.testing.assert_close(weighted, by_hand(student, teacher, importance))
    identity = torch.eye(6)
    heads = {"student_hidden": student, "student_weight": identity}
    found = distillation_head(
        student, identity, teacher, identity, alpha=1.0, group="top", group_size=6, pair_target=HINGE
    )
    torch.testing.assert_close(found, expected.mean())
    group = torch.arange(6).expand(3, 6)
    found = pairs_head(**heads, group=group, teacher_scores=teacher, pair_target=HINGE)
    torch.testing.assert_close(found, expected.mean())
    with pytest.raises(AssertionError, match="a kernel was asked"):
        all_pairs(student, teacher, pair_target=HARD)
    with pytest.raises(UserError, match="has no kernel for the pair form 'hinge': use auto"):
        all_pairs(student, teacher, pair_target=HINGE, implementation="triton")


def test_many_candidates_are_not_summed_as_hard_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 1100, generator=generator, dtype=torch.float64) / 10 for _ in range(2))
    found = all_pairs(student, teacher, pair_target=HINGE)
    torch.testing.assert_close(found, group_relative(student, teacher, pair_target=HINGE))
    assert (found - all_pairs(student, teacher)).abs() > 0.1
