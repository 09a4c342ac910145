"""The pairs-only head against the full head at alpha = 1 and against dense float64."""

import os
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.kernels import pairs_head
from grkd.losses import group_relative

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
DTYPE = torch.float32 if TRITON else torch.float64
FORM: dict[str, Any] = {"implementation": "triton" if TRITON else "torch"}
CLOSE = {"rtol": 2e-4, "atol": 2e-6} if TRITON else {"rtol": 1e-9, "atol": 1e-12}


def case(rows: int = 6, vocabulary: int = 23, group: int = 5) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(rows)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DTYPE)

    inputs = {
        "student_hidden": draw(rows, 7).requires_grad_(),
        "student_weight": draw(vocabulary, 7).requires_grad_(),
        "student_bias": draw(vocabulary).requires_grad_(),
        "teacher_hidden": draw(rows, 4),
        "teacher_weight": draw(vocabulary, 4),
        "teacher_bias": draw(vocabulary),
    }
    chosen = torch.stack([torch.randperm(vocabulary, generator=generator)[:group] for _ in range(rows)])
    chosen[0, 3:] = -1
    return inputs, chosen


def reference(inputs: dict[str, Tensor], group: Tensor, cap: float | None, **rule: Any) -> tuple[Tensor, Tensor]:
    scores = []
    for model in ("student", "teacher"):
        x = inputs[f"{model}_hidden"] @ inputs[f"{model}_weight"].T + inputs[f"{model}_bias"]
        x = x if cap is None else cap * torch.tanh(x / cap)
        scores.append(x.gather(-1, group.clamp_min(0)))
    return group_relative(scores[0], scores[1], mask=group >= 0, **rule), scores[1]


@pytest.mark.parametrize("rule", [{}, {"tau": 0.5, "pair_target": "soft"}, {"normalize": "candidates"}])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("known", [False, True])
def test_value_and_gradients(rule: dict[str, Any], cap: float | None, known: bool) -> None:
    inputs, group = case()
    double = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in inputs.items()}
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 0.5])
    losses, teacher = reference(double, group, cap, **rule)
    expected = 3.0 * (losses * weights).sum() / 5
    expected.backward()
    if known:
        inputs = {name: t for name, t in inputs.items() if not name.startswith("teacher")}
        inputs["teacher_scores"] = teacher.detach().to(DTYPE)
    student = inputs.pop("student_hidden"), inputs.pop("student_weight")
    caps = {"student_softcap": cap, "teacher_softcap": cap}
    loss = pairs_head(*student, group, **inputs, pair_scale=3.0, row_weights=weights, rows=5, **caps, **rule, **FORM)
    (2 * loss).backward()
    torch.testing.assert_close(loss.double(), expected.detach(), **CLOSE)
    for tensor, name in zip((*student, inputs["student_bias"]), ("hidden", "weight", "bias"), strict=True):
        torch.testing.assert_close(tensor.grad.double(), 2 * double[f"student_{name}"].grad, **CLOSE)


def test_masked_rows_and_second_backward() -> None:
    inputs, group = case()
    mask = torch.tensor([True, True, False, True, True, True])
    hidden = inputs.pop("student_hidden").detach().masked_fill(~mask[:, None], torch.nan).requires_grad_()
    weight = inputs.pop("student_weight")
    loss = pairs_head(hidden, weight, group, **inputs, row_mask=mask, **FORM)
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight)
    assert loss.isfinite()
    assert first.isfinite().all()
    torch.testing.assert_close(first, second)
    assert first.abs().max() > 0


def test_what_is_missing_is_named() -> None:
    inputs, group = case()
    hidden, weight = inputs["student_hidden"], inputs["student_weight"]
    with pytest.raises(UserError, match="teacher_scores"):
        pairs_head(hidden, weight, group, **FORM)
    with pytest.raises((ValueError, TypeCheckError), match="teacher_scores"):
        pairs_head(hidden, weight, group, teacher_scores=torch.zeros(6, 2), **FORM)
