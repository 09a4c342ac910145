"""The distillation head against the dense loss in float64.

With GRKD_KERNELS=triton (and TRITON_INTERPRET=1) the same tests run the Triton kernels: see test_interpreter.py.

Over 300 lines: the dense oracle and one test for each option of the head.
"""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd import groups
from grkd.errors import UserError
from grkd.kernels import distillation_head, pairs_head
from grkd.losses import group_relative
from grkd.objectives import GRKD, Batch, combine
from grkd.objectives.parts import Pairs, SoftTarget

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
DTYPE = torch.float32 if TRITON else torch.float64
FORM: dict[str, Any] = {"implementation": "triton" if TRITON else "torch"}
CLOSE = {"rtol": 2e-4, "atol": 2e-6} if TRITON else {"rtol": 1e-9, "atol": 1e-12}
DIVERGENCES = ("soft_target", "forward_kl", "reverse_kl", "jsd")


def case(rows: int = 5, vocabulary: int = 37, seed: int = 0, size: float = 1.5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, factor: float = 1.0) -> Tensor:
        return (factor * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(DTYPE)

    return {
        "student_hidden": draw(rows, 6).requires_grad_(),
        "student_weight": draw(vocabulary, 6, factor=size).requires_grad_(),
        "teacher_hidden": draw(rows, 9),
        "teacher_weight": draw(vocabulary, 9, factor=size),
    }


def double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def dense(inputs: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher scores [rows, vocabulary] in float64, caps and biases applied, and the leaves."""
    cut = options.get("vocabulary") or min(inputs["student_weight"].shape[0], inputs["teacher_weight"].shape[0])
    scores = []
    for model in ("student", "teacher"):
        x = inputs[f"{model}_hidden"] @ inputs[f"{model}_weight"][:cut].T
        if f"{model}_bias" in inputs:
            x = x + inputs[f"{model}_bias"][:cut]
        cap = options.get(f"{model}_softcap")
        scores.append(x if cap is None else cap * torch.tanh(x / cap))
    return scores[0], scores[1], inputs["student_hidden"]


def divergence_by_hand(s: Tensor, t: Tensor, name: str, beta: float) -> Tensor:
    p, q = s.softmax(-1), t.softmax(-1)
    if name == "soft_target":
        return -(q * p.log()).sum(-1)
    if name == "forward_kl":
        return (q * (q / p).log()).sum(-1)
    if name == "reverse_kl":
        return (p * (p / q).log()).sum(-1)
    m = beta * q + (1 - beta) * p
    return beta * (q * (q / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1)


def oracle(inputs: dict[str, Tensor], options: dict[str, Any], group: Tensor | None) -> Tensor:
    """The documented formula on dense float64 scores."""
    s, t, _ = dense(inputs, options)
    temperature = options.get("temperature", 1.0)
    loss = divergence_by_hand(
        s / temperature, t / temperature, options.get("divergence", "soft_target"), options.get("beta", 0.5)
    )
    loss = loss * (1 - options["alpha"]) * options.get("soft_scale", 1.0)
    if options.get("t_squared"):
        loss = loss * temperature**2
    if options["alpha"]:
        mask = None
        if group is not None:
            mask = group >= 0
            s, t = s.gather(-1, group.clamp_min(0)), t.gather(-1, group.clamp_min(0))
        rule = {name: options[name] for name in ("tau", "pair_target", "normalize") if name in options}
        loss = loss + options["alpha"] * options.get("pair_scale", 1.0) * group_relative(s, t, mask=mask, **rule)
    weights = options.get("row_weights")
    if weights is not None:
        loss = loss * weights.double()
    if options.get("row_mask") is not None:
        loss = torch.where(options["row_mask"], loss, 0.0)
        return loss.sum() / (options.get("rows") or max(1, int(options["row_mask"].sum())))
    return loss.sum() / (options.get("rows") or len(loss))


def check(inputs: dict[str, Tensor], used: Tensor | None = None, /, **options: Any) -> None:
    """Value and every gradient equal the oracle's; `used` is the group that the head must have taken."""
    reference = {name: double(tensor) for name, tensor in inputs.items()}
    expected = oracle(reference, options, used)
    expected.backward()
    given = {"group": used} if used is not None and "group" not in options else {}
    loss = distillation_head(**inputs, **given, **options, **FORM)
    (3 * loss).backward()
    torch.testing.assert_close(loss.double(), expected.detach(), **CLOSE)
    for name in ("student_hidden", "student_weight", "student_bias"):
        if name in inputs:
            torch.testing.assert_close(inputs[name].grad.double(), 3 * reference[name].grad, **CLOSE)


def groups_of(rows: int, vocabulary: int, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.stack([torch.randperm(vocabulary, generator=generator)[:size] for _ in range(rows)])


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("cap", [None, 2.0])
def test_divergence_and_pairs(divergence: str, cap: float | None) -> None:
    check(
        case(),
        groups_of(5, 37),
        alpha=0.4,
        divergence=divergence,
        beta=0.3,
        temperature=1.7,
        tau=0.6,
        student_softcap=cap,
        teacher_softcap=None if cap is None else 3.0,
    )


@pytest.mark.parametrize("option", [{"pair_target": "soft"}, {"normalize": "candidates"}, {"t_squared": True}])
def test_options_of_the_terms(option: dict[str, Any]) -> None:
    check(case(seed=1), groups_of(5, 37), alpha=0.5, temperature=2.0, pair_scale=3.0, soft_scale=0.5, **option)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_one_term_alone(alpha: float) -> None:
    check(case(seed=2), groups_of(5, 37) if alpha else None, alpha=alpha)


@pytest.mark.parametrize(("rows", "vocabulary", "chunk"), [(1, 2, None), (7, 123, 3), (6, 507, 2)])
def test_odd_shapes_and_chunks(rows: int, vocabulary: int, chunk: int | None) -> None:
    check(case(rows, vocabulary), groups_of(rows, vocabulary, min(vocabulary, 5)), alpha=0.3, chunk=chunk)


@pytest.mark.skipif(TRITON, reason="of the torch form; the kernels in 16 bits are tested on a GPU")
@pytest.mark.parametrize("group", ["sample", "top", "all"])
@pytest.mark.parametrize("weights", [{"alpha": 1.0}, {"alpha": 0.0}, {"alpha": 0.5, "soft_scale": 0.0}])
def test_a_term_without_weight_in_16_bits(group: str, weights: dict[str, float]) -> None:
    """The last step of the printed form has alpha = 1: nothing but the pairs depends on the logits there."""
    inputs = {name: tensor.detach().to(torch.bfloat16) for name, tensor in case().items()}
    hidden = inputs["student_hidden"].requires_grad_()
    options: dict[str, Any] = {"group": group, "group_size": 4, **weights}
    seeds = torch.arange(len(hidden)) * 977
    loss = distillation_head(**inputs, **options, seeds=seeds, **FORM)
    loss.backward()
    assert torch.isfinite(loss)
    assert hidden.grad is not None
    wide_inputs = {name: tensor.detach().float() for name, tensor in inputs.items()}
    wide_hidden = wide_inputs["student_hidden"].requires_grad_()
    if group == "sample":  # of the rounded scores: others may draw other candidates
        teacher = torch.nn.functional.linear(inputs["teacher_hidden"], inputs["teacher_weight"])
        options["group"] = groups.sample(teacher, 4, seeds=seeds).indices
    wide_loss = distillation_head(**wide_inputs, **options, **FORM)
    wide_loss.backward()
    torch.testing.assert_close(loss.float(), wide_loss.float(), rtol=0.05, atol=0.02)
    assert wide_hidden.grad is not None
    assert torch.cosine_similarity(hidden.grad.float().flatten(), wide_hidden.grad.flatten(), dim=0) > 0.98


def test_biases_and_a_padded_vocabulary() -> None:
    inputs = case(seed=3)
    inputs["teacher_weight"] = torch.cat([inputs["teacher_weight"], torch.full((4, 9), torch.nan)])
    inputs["student_bias"] = torch.randn(37).to(DTYPE).requires_grad_()
    inputs["teacher_bias"] = torch.randn(41).to(DTYPE)
    check(inputs, groups_of(5, 33), alpha=0.5, vocabulary=33)
    assert inputs["student_weight"].grad[33:].abs().max() == 0


def test_a_bias_over_a_frozen_weight_is_trained() -> None:
    """As where a head is frozen but for its bias: no gradient of the weight is wanted."""
    inputs = {**case(), "student_bias": torch.randn(37, dtype=DTYPE).requires_grad_()}
    options = {"alpha": 0.5, "group": groups_of(5, 37), **FORM}
    (whole,) = torch.autograd.grad(distillation_head(**inputs, **options), inputs["student_bias"])
    inputs["student_weight"] = inputs["student_weight"].detach()
    (alone,) = torch.autograd.grad(distillation_head(**inputs, **options), inputs["student_bias"])
    torch.testing.assert_close(alone, whole)


def test_masked_rows_count_nowhere_even_with_nan() -> None:
    inputs = case(seed=4)
    mask = torch.tensor([True, False, True, False, True])
    weights = torch.tensor([1.0, 1.0, 0.5, 1.0, 2.0])
    check(inputs, groups_of(5, 37), alpha=0.5, row_mask=mask, row_weights=weights, chunk=2)
    for name in ("student_hidden", "teacher_hidden"):
        inputs[name] = inputs[name].detach().masked_fill(~mask[:, None], torch.nan)
    weight = inputs["student_weight"].detach().requires_grad_()
    hidden = inputs["student_hidden"].requires_grad_()
    rest = {name: inputs[name] for name in ("teacher_hidden", "teacher_weight")}
    loss = distillation_head(hidden, weight, **rest, alpha=0.5, group=groups_of(5, 37), row_mask=mask, chunk=2, **FORM)
    loss.backward()
    assert loss.isfinite()
    assert weight.grad.isfinite().all()
    assert (hidden.grad[~mask] == 0).all()
    assert (hidden.grad[mask] != 0).any()


@pytest.mark.parametrize("head", ["whole", "pairs"])
def test_no_rows_give_zero(head: str) -> None:
    inputs = case(rows=0)
    group = torch.zeros(0, 4, dtype=torch.long)
    if head == "whole":
        loss = distillation_head(**inputs, alpha=0.5, group=group, **FORM)
    else:
        teacher = {name: each for name, each in inputs.items() if "teacher" in name}
        loss = pairs_head(inputs["student_hidden"], inputs["student_weight"], group, **teacher, **FORM)
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool((inputs["student_weight"].grad == 0).all())


def test_all_rows_masked_give_zero() -> None:
    inputs = case(rows=4)
    loss = distillation_head(
        **inputs, alpha=0.5, group=groups_of(4, 37), row_mask=torch.zeros(4, dtype=torch.bool), chunk=2, **FORM
    )
    loss.backward()
    assert loss == 0
    assert inputs["student_weight"].grad.abs().max() == 0


def test_missing_candidates_and_rows_without_pairs() -> None:
    group = groups_of(5, 37)
    group[0, 2:] = -1
    group[1, 1:] = -1
    group[2] = -1
    check(case(seed=5), group, alpha=0.5)


def test_divisor_may_be_a_tensor() -> None:
    inputs = case()
    plain = distillation_head(**inputs, alpha=0.0, rows=11, **FORM)
    held = distillation_head(**inputs, alpha=0.0, rows=torch.tensor(11), **FORM)
    torch.testing.assert_close(plain, held)
    check(inputs, None, alpha=0.0, rows=11)


def test_top_group_is_the_teachers_best() -> None:
    inputs = case(rows=6, vocabulary=300, seed=6)
    t = inputs["teacher_hidden"].double() @ inputs["teacher_weight"].double().T
    check(inputs, t.topk(7).indices, alpha=0.5, group_size=7, group="top")


def test_equals_the_objective() -> None:
    inputs = case(rows=4, vocabulary=50, seed=8)
    pairs = Pairs(weight=2.0, tau=0.7, normalize="candidates", group="top", group_size=6)
    objective = GRKD(ranking=(pairs,), anchor=(SoftTarget(temperature=1.3),))
    reference = {name: double(tensor) for name, tensor in inputs.items()}
    s, t, _ = dense(reference, {})
    expected = combine(objective.terms(Batch(student=s, teacher=t, progress=0.3)), rows=4)
    expected.backward()
    loss = distillation_head(**inputs, **objective.head_options(0.3), **FORM)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected.detach(), **CLOSE)
    torch.testing.assert_close(inputs["student_weight"].grad.double(), reference["student_weight"].grad, **CLOSE)


SAMPLED = GRKD(ranking=(Pairs(group="sample", group_size=5, group_temperature=2.0),))


def test_sampled_group_is_the_objectives_for_the_same_seeds() -> None:
    """Also in chunks and by the kernel: a row's group is a function of its seed and scores alone."""
    inputs = case(rows=4, vocabulary=50)
    s, t, _ = dense(inputs, {})
    seeds = torch.tensor([3, 1 << 40, -5, (1 << 62) + 7])
    batch = Batch(student=s, teacher=t, progress=0.5, seeds=seeds)
    expected = combine(SAMPLED.terms(batch), rows=4)
    options: dict[str, Any] = {"alpha": 0.5, "group": "sample", "group_size": 5, "group_temperature": 2.0, **FORM}
    for chunk in (None, 3):
        loss = distillation_head(**inputs, **options, seeds=seeds, chunk=chunk)
        torch.testing.assert_close(loss.double(), expected.detach().double(), **CLOSE)
    other = distillation_head(**inputs, **options, seeds=seeds + 1)
    assert not torch.isclose(other.double(), expected.detach().double(), rtol=1e-3)


@pytest.mark.skipif(TRITON, reason="of the torch form")
def test_sampled_group_is_the_objectives_for_the_same_generator() -> None:
    inputs = case(rows=4, vocabulary=50)
    s, t, _ = dense(inputs, {})
    batch = Batch(student=s, teacher=t, progress=0.5, seeds=torch.Generator().manual_seed(3))
    expected = combine(SAMPLED.terms(batch), rows=4)
    loss = distillation_head(
        **inputs,
        alpha=0.5,
        group="sample",
        group_size=5,
        group_temperature=2.0,
        generator=torch.Generator().manual_seed(3),
        **FORM,
    )
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)


@pytest.mark.skipif(TRITON, reason="all pairs of the vocabulary are the torch form's")
@pytest.mark.parametrize("group", ["all", "auto"])
def test_all_candidates(group: str) -> None:
    check(case(rows=3, vocabulary=60), None, alpha=0.5, group=group)


def test_leading_axes_and_parts() -> None:
    inputs = case(rows=6)
    flat = distillation_head(**inputs, alpha=0.5, group=groups_of(6, 37), **FORM)
    shaped = {name: t.reshape(2, 3, -1) if "hidden" in name else t for name, t in inputs.items()}
    loss, parts = distillation_head(**shaped, alpha=0.5, group=groups_of(6, 37).reshape(2, 3, 4), parts=True, **FORM)
    torch.testing.assert_close(loss, flat)
    torch.testing.assert_close(parts["group_relative"] + parts["divergence"], loss.detach())
    assert not parts["divergence"].requires_grad


def test_no_gradient_is_computed_without_grad() -> None:
    inputs = case()
    with torch.no_grad():
        loss = distillation_head(**inputs, alpha=0.5, group=groups_of(5, 37), **FORM)
    assert not loss.requires_grad
    expected = oracle({name: double(t) for name, t in inputs.items()}, {"alpha": 0.5}, groups_of(5, 37))
    torch.testing.assert_close(loss.double(), expected.detach(), **CLOSE)


def test_second_backward_and_checkpointing() -> None:
    inputs = case(rows=2, vocabulary=60)
    options = {"alpha": 0.5, "group": "sample", "group_size": 4, **FORM}
    loss = distillation_head(**inputs, **options)
    (first,) = torch.autograd.grad(loss, inputs["student_weight"], retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(2 * loss, inputs["student_weight"])
    torch.testing.assert_close(first, kept)
    torch.testing.assert_close(second, 2 * first, **CLOSE)
    torch.manual_seed(1)
    plain = torch.autograd.grad(distillation_head(**inputs, **options), inputs["student_hidden"])[0]
    torch.manual_seed(1)
    again = torch.utils.checkpoint.checkpoint(lambda: distillation_head(**inputs, **options), use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, inputs["student_hidden"])[0], plain)


def test_tied_weights_sum_their_gradients() -> None:
    inputs = case()
    weight = inputs["student_weight"]
    loss = distillation_head(**inputs, alpha=0.0, **FORM) + weight.square().sum()
    loss.backward()
    alone = case()
    distillation_head(**alone, alpha=0.0, **FORM).backward()
    torch.testing.assert_close(weight.grad, alone["student_weight"].grad + 2 * weight.detach(), **CLOSE)


@pytest.mark.parametrize("gap", [0.0, 300.0])
def test_extreme_scores_stay_finite(gap: float) -> None:
    inputs = case(size=max(gap, 1.0))
    for divergence in DIVERGENCES:
        loss = distillation_head(**inputs, alpha=0.5, group=groups_of(5, 37), divergence=divergence, **FORM)
        gradient = torch.autograd.grad(loss, inputs["student_weight"])[0]
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.skipif(TRITON, reason="the interpreter is slow; for the same seeds both forms draw the same group")
def test_sampling_follows_the_teacher_without_replacement() -> None:
    """Two draws of three: the frequencies of ordered pairs are those of drawing without replacement."""
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    rows = 4000
    inputs = {
        "student_hidden": torch.ones(rows, 1, dtype=DTYPE).requires_grad_(),
        "student_weight": torch.ones(3, 1, dtype=DTYPE),
        "teacher_hidden": torch.ones(rows, 1, dtype=DTYPE),
        "teacher_weight": probabilities.log().to(DTYPE)[:, None] * 2,
    }
    loss = distillation_head(
        **inputs,
        alpha=0.5,
        soft_scale=0.0,
        group="sample",
        group_size=2,
        group_temperature=2.0,
        generator=torch.Generator().manual_seed(0),
        **FORM,
    )
    drawn = loss.grad_fn.indices  # the group that a second backward would use
    left_out = (3 - drawn.sum(-1)).bincount(minlength=3) / rows
    expected = torch.zeros(3)
    for i in range(3):
        for j in range(3):
            if i != j:
                expected[3 - i - j] += probabilities[i] * probabilities[j] / (1 - probabilities[i])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    tolerance = 4 * math.sqrt(0.25 / rows)
    assert (left_out - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"tau": -1.0}, "tau"),
        ({"vocabulary": 99}, "vocabulary"),
        ({"student_softcap": 0.0}, "softcap"),
        ({"divergence": "jsd", "beta": 1.0}, "beta"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        distillation_head(**case(), **{"alpha": 0.5, **options}, **FORM)


def test_bad_shapes_are_refused() -> None:
    inputs = case()
    with pytest.raises((ValueError, TypeCheckError), match="row_mask"):
        distillation_head(**inputs, alpha=0.5, row_mask=torch.ones(5, 1, dtype=torch.bool), **FORM)
    with pytest.raises((ValueError, TypeCheckError), match="group"):
        distillation_head(**inputs, alpha=0.5, group=torch.zeros(4, 3, dtype=torch.long), **FORM)
    with pytest.raises(UserError, match="vocabulary"):
        distillation_head(**{**inputs, "teacher_weight": inputs["teacher_weight"][:30]}, alpha=0.5, **FORM)


@pytest.mark.skipif(TRITON, reason="the torch form is enough to see the gather")
def test_sharded_weights_get_the_whole_weights_gradient(tmp_path: Path) -> None:
    """A DTensor weight, as FSDP2 holds it; one rank, so that the average over ranks is the gradient itself."""
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        inputs = case()
        whole = inputs["student_weight"]
        sharded = distribute_tensor(whole.detach(), init_device_mesh("cpu", (1,)), [Shard(0)]).requires_grad_()
        distillation_head(**inputs, alpha=0.5, group="top", group_size=4, **FORM).backward()
        distillation_head(
            **{**inputs, "student_weight": sharded}, alpha=0.5, group="top", group_size=4, **FORM
        ).backward()
        torch.testing.assert_close(sharded.grad.full_tensor(), whole.grad)
    finally:
        distributed.destroy_process_group()
