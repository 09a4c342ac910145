"""GKD against its formula in plain Python, TRL's own loss and the fused head."""

import math
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.kernels import distillation_head
from grkd.losses import forward_kl, generalized_jsd
from grkd.objectives import Batch, combine

BETAS = [0.0, 0.1, 0.5, 0.8, 1.0]


def scores(rows: int = 5, candidates: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, 2 * teacher


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("gkd", **options).terms(batch))


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def by_hand(student: list[float], teacher: list[float], beta: float, temperature: float) -> float:
    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in values]
        return [power / math.fsum(powers) for power in powers]

    q, p = softmax(student), softmax(teacher)
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    middle = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", BETAS)
def test_equals_the_formula(beta: float, temperature: float) -> None:
    student, teacher = scores()
    rows = [by_hand(s, t, beta, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    found = loss_of(Batch(student=student, teacher=teacher), beta=beta, temperature=temperature)
    assert found.item() == pytest.approx(sum(rows) / len(rows), rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_masked_candidates_leave_both_softmaxes(beta: float) -> None:
    student, teacher = scores()
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[:, 2] = False
    kept = [0, 1, 3, 4, 5]
    expected = generalized_jsd(student[:, kept], teacher[:, kept], beta=beta)
    torch.testing.assert_close(generalized_jsd(student, teacher, mask=mask, beta=beta), expected)
    mask[1] = False
    assert generalized_jsd(student, teacher, mask=mask, beta=beta)[1] == 0


def test_the_ends_are_forward_and_reverse_kl() -> None:
    student, teacher = scores()
    torch.testing.assert_close(generalized_jsd(student, teacher, beta=0.0), forward_kl(student, teacher))
    torch.testing.assert_close(generalized_jsd(student, teacher, beta=1.0), forward_kl(teacher, student))
    small = 1e-7
    near = generalized_jsd(student, teacher, beta=small) / small
    torch.testing.assert_close(near, forward_kl(student, teacher), rtol=1e-4, atol=1e-6)
    near = generalized_jsd(student, teacher, beta=1 - small) / small
    torch.testing.assert_close(near, forward_kl(teacher, student), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta: float) -> None:
    student, teacher = scores()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: generalized_jsd(s, teacher, beta=beta, temperature=2.0), student)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", BETAS)
def test_equals_trl(beta: float, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    student, teacher = scores(rows=8)
    labels = torch.tensor([[3, -100, 0, 1], [2, 2, -100, -100]])
    expected = GKDTrainer.generalized_jsd_loss(
        student.view(2, 4, 6), teacher.view(2, 4, 6), labels=labels, beta=beta, temperature=temperature
    )
    kept = (labels != -100).flatten()
    found = loss_of(Batch(student=student[kept], teacher=teacher[kept]), beta=beta, temperature=temperature)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("beta", BETAS)
def test_the_fused_head_computes_the_same(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher_hidden, teacher_weight = (
        torch.randn(*shape, generator=generator) for shape in ((6, 8), (11, 8), (6, 9), (11, 9))
    )
    method = objectives.load("gkd", beta=beta, temperature=1.5)
    options = method.head_options(0.3)
    assert options is not None
    fused = distillation_head(hidden.requires_grad_(), weight, teacher_hidden, teacher_weight, **options)
    fused.backward()
    gradient, hidden.grad = hidden.grad, None
    plain = combine(method.terms(Batch(student=hidden @ weight.T, teacher=teacher_hidden @ teacher_weight.T)))
    plain.backward()
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(gradient, hidden.grad)


def test_the_on_policy_share_is_the_trainers() -> None:
    assert objectives.load("gkd").on_policy == 0.5
    assert objectives.load("gkd", on_policy_fraction=0.25).on_policy == 0.25
    assert objectives.load("gkd").teacher_mixed_in == 0
    assert objectives.load("gkd").needs_teacher


@pytest.mark.parametrize(
    ("option", "value"), [("beta", -0.1), ("beta", 1.1), ("temperature", 0.0), ("on_policy_fraction", 1.5)]
)
def test_values_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^gkd: {option} .*{value}"):
        objectives.load("gkd", **{option: value})
    if option != "on_policy_fraction":
        with pytest.raises(UserError, match=f"^{option} .*{value}"):
            generalized_jsd(*scores(), **{option: value})


def test_shapes_must_fit() -> None:
    student, teacher = scores()
    with pytest.raises((ValueError, TypeCheckError)):
        generalized_jsd(student, teacher[:, :4])
