"""A teacher's score of -inf is a probability of 0: it counts nothing in a divergence, and ties with its like in pairs.

Formulas in float64 are the oracle of the torch forms, of the kernels through the interpreter (test_interpreter.py runs
this file again) and, where there is a GPU, of the kernels on it.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import groups
from grkd.errors import UserError
from grkd.kernels import all_pairs, distillation_head, pairs_head, selected_log_probs
from grkd.kernels.weighted_pairs import weighted_pairs

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
ON_GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of differences that are not used
devices = pytest.mark.parametrize("device", ["cpu", ON_GPU])
SIZES = {"rows": 3, "vocabulary": 300, "group": 12}


def form(device: str) -> Any:
    return "triton" if TRITON or device == "cuda" else "torch"


def ruled_out(scores: Tensor) -> Tensor:
    """Every third score at -inf."""
    out = torch.arange(scores.shape[-1], device=scores.device) % 3 == 1
    return scores.masked_fill(out, -torch.inf)


def pairs_by_hand(s: Tensor, t: Tensor, target: str, values: Tensor | None = None) -> Tensor:
    """Mean over t_i > t_j of softplus(-d), or of its soft form with sigmoid(t_i - t_j); weighed by |v_i - v_j|."""
    rows = []
    for own, of_teacher, value in zip(s, t, s if values is None else values, strict=True):
        i, j = (of_teacher[:, None] > of_teacher).nonzero().T
        gap, weight = own[i] - own[j], (value[i] - value[j]).abs() if values is not None else torch.ones(len(i)).to(s)
        q = (of_teacher[i] - of_teacher[j]).sigmoid() if target == "soft" else torch.ones_like(gap)
        softplus = torch.nn.functional.softplus
        loss = weight * (q * softplus(-gap) + (1 - q) * softplus(gap))
        rows.append(loss.sum() / weight.sum() if len(i) else own.sum() * 0)
    return torch.stack(rows)


def divergence_by_hand(s: Tensor, t: Tensor, name: str) -> Tensor:
    log_p, q = s.log_softmax(-1), t.softmax(-1)
    entropy = -torch.special.xlogy(q, q).sum(-1)
    if name == "jsd":
        log_m = ((log_p.exp() + q) / 2).log()
        return (-entropy - (q * log_m).sum(-1) + (log_p.exp() * (log_p - log_m)).sum(-1)) / 2
    return -(q * log_p).sum(-1) - (entropy if name == "forward_kl" else 0)


def check(loss: Callable[..., Tensor], exact: Callable[..., Tensor], leaves: list[Tensor], size: float = 2e-5) -> None:
    """Value and gradients are those of `exact` on the same numbers in float64."""
    given = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found, expected = loss(*given), exact(*double)
    upstream = torch.linspace(0.5, 2, found.numel(), device=found.device).view_as(found)
    torch.testing.assert_close(found.double(), expected, rtol=size, atol=size)
    for one, other in zip(
        torch.autograd.grad(found, given, upstream.to(found)),
        torch.autograd.grad(expected, double, upstream.double()),
        strict=True,
    ):
        assert (one.double() - other).norm() <= size * other.norm()


def head_case(device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary, size = SIZES.values()
    shapes = {"student_hidden": (rows, 16), "student_weight": (vocabulary, 16)}
    shapes |= {"teacher_hidden": (rows, 24), "teacher_weight": (vocabulary, 24)}
    made = {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}
    made["teacher_bias"] = ruled_out(torch.zeros(vocabulary))
    made = {name: each.to(device, dtype) for name, each in made.items()}
    made["group"] = torch.rand(rows, vocabulary, generator=generator).topk(size).indices.to(device)
    return made


@devices
@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize(("divergence", "target"), [("soft_target", "hard"), ("forward_kl", "soft"), ("jsd", "soft")])
def test_head(divergence: str, target: str, memory: Any, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,):
        given = head_case(device, dtype)
        students = [given.pop(name) for name in ("student_hidden", "student_weight")]
        options: dict[str, Any] = {"alpha": 0.5, "divergence": divergence, "pair_target": target, "memory": memory}
        group, teacher = given["group"], given["teacher_hidden"].double() @ given["teacher_weight"].double().mT
        teacher = teacher + given["teacher_bias"].double()

        def loss(hidden: Tensor, weight: Tensor, given: Any = given, options: Any = options) -> Tensor:
            return distillation_head(hidden, weight, **given, **options, implementation=form(device))

        def exact(hidden: Tensor, weight: Tensor, group: Tensor = group, teacher: Tensor = teacher) -> Tensor:
            s = hidden @ weight.mT
            pairs = pairs_by_hand(s.gather(-1, group), teacher.gather(-1, group), target)
            return (0.5 * (pairs + divergence_by_hand(s, teacher, divergence))).mean()

        check(loss, exact, students, size=2e-5 if dtype == torch.float32 else 2e-2)


@devices
@pytest.mark.parametrize("choice", ["sample", "top"])
def test_a_group_larger_than_what_the_teacher_allows(choice: Any, device: str) -> None:
    """It has its few candidates first, then others of the vocabulary, each once; a sample is that of groups.sample."""
    given = head_case(device, torch.float32)
    del given["group"]
    given["teacher_bias"] = torch.full_like(given["teacher_bias"], -torch.inf)
    given["teacher_bias"][[5, 77, 130, 299]] = 0.0
    given["student_hidden"].requires_grad_()
    seeds = torch.arange(SIZES["rows"], device=device)
    options: dict[str, Any] = {"group": choice, "group_size": 10, "seeds": seeds, "implementation": form(device)}
    loss = distillation_head(**given, alpha=0.5, **options)
    chosen = loss.grad_fn.indices
    assert bool(loss.isfinite())
    assert all({*row[:4]} == {5, 77, 130, 299} and len({*row}) == 10 for row in chosen.tolist())
    assert int(chosen.max()) < SIZES["vocabulary"]
    if choice == "sample":
        teacher = given["teacher_hidden"] @ given["teacher_weight"].mT + given["teacher_bias"]
        assert torch.equal(chosen, groups.sample(teacher, 10, seeds=seeds).indices)
    with pytest.raises(UserError, match="group_size must be between 2 and the 300 candidates, got 301"):
        distillation_head(**given, alpha=0.5, **{**options, "group_size": 301})


@devices
def test_a_teacher_that_rules_out_everything_is_no_silent_0(device: str) -> None:
    given = head_case(device, torch.float32)
    given["teacher_bias"] = torch.full_like(given["teacher_bias"], -torch.inf)
    assert not bool(distillation_head(**given, alpha=0.0, implementation=form(device)).isfinite())


@devices
@pytest.mark.parametrize("target", ["hard", "soft"])
def test_pairs(target: Any, device: str) -> None:
    given, generator = head_case(device, torch.float32), torch.Generator().manual_seed(1)
    students = [given["student_hidden"], given["student_weight"]]
    group, how = given["group"], {"pair_target": target, "implementation": form(device)}
    known = ruled_out(torch.randn(group.shape, generator=generator)).to(device)
    check(
        lambda hidden, weight: pairs_head(hidden, weight, group, teacher_scores=known, **how),
        lambda hidden, weight: pairs_by_hand((hidden @ weight.mT).gather(-1, group), known.double(), target).mean(),
        students,
    )
    # From 1,536 hard pairs are interpolated; the interpreter takes half a minute for it.
    for candidates in (1600, 200) if target == "hard" and not TRITON else (100,):
        student, teacher, values = torch.randn(3, 2, candidates, generator=generator).to(device)
        teacher = ruled_out(teacher)
        teacher[1, : candidates - 2] = -torch.inf
        check(
            lambda own, teacher=teacher: all_pairs(own, teacher, **how),
            lambda own, teacher=teacher: pairs_by_hand(own, teacher.double(), target),
            [student],
        )
    check(
        lambda own: weighted_pairs(own, teacher, importance=values, **how),
        lambda own: pairs_by_hand(own, teacher.double(), target, values.double()),
        [student],
    )


@devices
def test_tokens_that_a_students_head_rules_out(device: str) -> None:
    given = head_case(device, torch.float32)
    labels = torch.arange(SIZES["rows"], device=device) * 3
    bias = given["teacher_bias"]
    check(
        lambda hidden, weight: selected_log_probs(hidden, weight, labels, bias=bias, implementation=form(device)),
        lambda hidden, weight: (
            (hidden @ weight.mT + bias.double()).log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
        ),
        [given["student_hidden"], given["student_weight"]],
    )
