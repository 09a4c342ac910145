"""The two parts of the decoupled KL against the paper's formulas in plain Python, and against the KL they make up."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.losses import decoupled_kl, forward_kl


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, teacher, labels (one unknown, one masked) and mask."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(6, 5, generator=generator) < 0.8
    labels = torch.tensor([0, 4, -100, 2, 1, 3])
    mask[torch.arange(6), labels.clamp_min(0)] = True
    mask[5, 3] = False
    return student, teacher, labels, mask


def softmax(values: list[float], temperature: float) -> list[float]:
    exps = [math.exp(value / temperature) for value in values]
    return [value / sum(exps) for value in exps]


def by_hand(s: list[float], t: list[float], label: int, temperature: float) -> tuple[float, float]:
    p, q = softmax(t, temperature), softmax(s, temperature)
    target = p[label] * math.log(p[label] / q[label]) + (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
    others = [k for k in range(len(s)) if k != label]
    hat_p, hat_q = ([x[k] / (1 - x[label]) for k in others] for x in (p, q))
    return target, sum(a * math.log(a / b) for a, b in zip(hat_p, hat_q, strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_papers_formulas(temperature: float, seed: int) -> None:
    student, teacher, labels, mask = case(seed)
    target, others = decoupled_kl(student, teacher, labels, mask=mask, temperature=temperature)
    for row, exists in enumerate(mask):
        if row in (2, 5):
            assert target[row] == others[row] == 0
            continue
        label = int(exists[: labels[row]].sum())
        expected = by_hand(student[row, exists].tolist(), teacher[row, exists].tolist(), label, temperature)
        assert (target[row].item(), others[row].item()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_together_they_are_the_kl(temperature: float) -> None:
    student, teacher, labels, mask = case()
    target, others = decoupled_kl(student, teacher, labels, mask=mask, temperature=temperature)
    p = (teacher / temperature).masked_fill(~mask, -torch.inf).softmax(-1)
    known = torch.tensor([0, 1, 3, 4])
    whole = target + (1 - p[torch.arange(6), labels.clamp_min(0)]) * others
    kl = forward_kl(student, teacher, mask=mask, temperature=temperature)
    torch.testing.assert_close(whole[known], kl[known])


def test_gradcheck_and_no_gradient_to_the_teacher() -> None:
    student, teacher, labels, mask = case()
    assert torch.autograd.gradcheck(
        lambda s: decoupled_kl(s, teacher, labels, mask=mask, temperature=2.0), student.requires_grad_()
    )
    target, others = decoupled_kl(student, teacher.requires_grad_(), labels)
    (target + others).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_nothing_masked_reaches_value_or_gradient(junk: float) -> None:
    student, teacher, labels, mask = case()

    def run(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        leaf = s.clone().requires_grad_()
        loss = torch.stack(decoupled_kl(leaf, t, labels, mask=mask)).sum()
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    clean, dirty = run(student, teacher), run(*(scores.masked_fill(~mask, junk) for scores in (student, teacher)))
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))
    assert (dirty[1][~mask] == 0).all()


def test_finite_at_large_scores_and_in_a_row_with_the_label_alone() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 1e4], [3.0, 2.0, 1.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    target, others = decoupled_kl(student, teacher, torch.tensor([0, 0]), mask=mask)
    (target + others).sum().backward()
    assert target.isfinite().all()
    assert others.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert target[1].item() == others[1].item() == 0
    assert target[0].item() == pytest.approx(1e4, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_divided_by_the_temperature_in_float32(dtype: torch.dtype) -> None:
    student, teacher, labels, mask = case()
    halves = (30 * student).to(dtype), (30 * teacher).to(dtype)
    for temperature in (3.0, 1e-3):  # the second takes float16's scores out of its range
        found = decoupled_kl(*halves, labels, mask=mask, temperature=temperature)
        exact = decoupled_kl(*(half.double() for half in halves), labels, mask=mask, temperature=temperature)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    student, teacher, labels, _ = case()
    with pytest.raises(UserError, match="temperature"):
        decoupled_kl(student, teacher, labels, temperature=0.0)
    with pytest.raises((ValueError, TypeCheckError)):
        decoupled_kl(student, teacher, labels[:1])
    with pytest.raises((ValueError, TypeCheckError)):
        decoupled_kl(student, teacher[:, :4], labels)
