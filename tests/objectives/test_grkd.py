"""GRKD against its formula in plain Python, its groups, its counting and its refusals."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd import groups, losses, objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine
from grkd.objectives import grkd as module


def scores(rows: int = 5, candidates: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, (2 * teacher).round(decimals=0)


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("grkd", **options).terms(batch))


def by_hand(student: list[list[float]], teacher: list[list[float]], labels: list[int], progress: float) -> float:
    """L = a * 3 * L_GR + (1 - a) * 2 * L_soft + 0.25 * CE, a = 0.8 * progress, tau = 0.5, T = 2."""

    def log_probs(values: list[float], temperature: float) -> list[float]:
        normaliser = math.log(math.fsum(math.exp(value / temperature) for value in values))
        return [value / temperature - normaliser for value in values]

    relative, soft, labelled = [], [], []
    for s, t, label in zip(student, teacher, labels, strict=True):
        margins = [(s[i] - s[j]) / 0.5 for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
        if margins:
            relative.append(sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins))
        p, q = log_probs(t, 2.0), log_probs(s, 2.0)
        soft.append(-sum(math.exp(a) * b for a, b in zip(p, q, strict=True)))
        if label >= 0:
            labelled.append(-log_probs(s, 1.0)[label])

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    alpha = 0.8 * progress
    return alpha * 3 * mean(relative) + (1 - alpha) * 2 * mean(soft) + 0.25 * mean(labelled)


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_equals_the_formula(progress: float) -> None:
    student, teacher = scores()
    teacher[2] = 1.0  # no pair: counts in the soft targets' mean, not in the pairs'
    labels = torch.tensor([0, 3, 5, -100, 2])
    batch = Batch(student=student, teacher=teacher, labels=labels, progress=progress)
    options = {"tau": 0.5, "temperature": 2.0, "alpha_ceiling": 0.8, "pair_scale": 3.0, "soft_scale": 2.0}
    expected = by_hand(student.tolist(), teacher.tolist(), labels.tolist(), progress)
    assert loss_of(batch, **options, label_weight=0.25).item() == pytest.approx(expected, rel=1e-12)


def test_defaults_are_the_papers() -> None:
    student, teacher = scores()
    start, end = (loss_of(Batch(student=student, teacher=teacher, progress=progress)) for progress in (0.0, 1.0))
    torch.testing.assert_close(start, losses.soft_target(student, teacher).mean())
    torch.testing.assert_close(end, losses.group_relative(student, teacher).mean())


def test_gradcheck() -> None:
    student, teacher = scores()
    options = {"pair_target": "soft", "normalize": "candidates", "temperature": 2.0, "label_weight": 0.5}

    def loss(logits: Tensor) -> Tensor:
        return loss_of(Batch(student=logits, teacher=teacher, labels=torch.arange(5), progress=0.5), **options)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_pairs_and_soft_targets_carry_their_weights() -> None:
    student, teacher = scores()
    method = objectives.load("grkd", alpha_shape="cosine", pair_scale=3.0, soft_scale=0.5)
    terms = {term.name: term for term in method.terms(Batch(student=student, teacher=teacher, progress=0.25))}
    alpha = (1 - math.cos(math.pi / 4)) / 2
    assert terms["group_relative"].weight == pytest.approx(3 * alpha)
    assert terms["soft_target"].weight == pytest.approx(0.5 * (1 - alpha))
    assert "labels" not in terms


@pytest.mark.parametrize("group", ["top", "sample"])
def test_a_group_is_the_loss_on_its_candidates(group: str) -> None:
    student, teacher = scores(candidates=12)
    options = {"size": 5, "temperature": 1.5}
    chosen = groups.choose(teacher, group, generator=torch.Generator().manual_seed(3), **options)
    assert chosen is not None
    expected = losses.group_relative(student.gather(-1, chosen.indices), teacher.gather(-1, chosen.indices)).mean()
    batch = Batch(student=student, teacher=teacher, progress=1.0, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss_of(batch, group=group, group_size=5, group_temperature=1.5), expected)
    assert not torch.isclose(expected, loss_of(batch, group="all"))


def test_auto_takes_all_up_to_a_limit_then_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = scores(candidates=12)

    def loss(group: str) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        batch = Batch(student=student, teacher=teacher, progress=1.0, generator=generator)
        return loss_of(batch, group=group, group_size=5)

    assert not torch.isclose(loss("all"), loss("sample"))
    monkeypatch.setattr(module, "_ALL_UP_TO", 12)
    assert torch.equal(loss("auto"), loss("all"))
    monkeypatch.setattr(module, "_ALL_UP_TO", 11)
    assert torch.equal(loss("auto"), loss("sample"))


def test_a_group_without_a_pair_is_not_counted() -> None:
    # The teacher's top two of row 0 tie, so its group has no pair although the row has some.
    teacher = torch.tensor([[2.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    student = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    loss = loss_of(Batch(student=student, teacher=teacher, progress=1.0), group="top", group_size=2)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))


def test_no_row_with_a_pair_gives_zero_and_no_gradient() -> None:
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = loss_of(Batch(student=student, teacher=torch.ones(3, 4), progress=1.0))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_more_group_than_candidates_is_a_user_error() -> None:
    student, teacher = scores()
    with pytest.raises(UserError, match="group_size must be between 2 and the 6 candidates, got 7"):
        loss_of(Batch(student=student, teacher=teacher), group="top", group_size=7)


def test_labels_are_needed_for_a_label_weight() -> None:
    student, teacher = scores()
    with pytest.raises(ValueError, match="labels"):
        loss_of(Batch(student=student, teacher=teacher), label_weight=0.1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tau", 0.0),
        ("temperature", -1.0),
        ("group_temperature", 0.0),
        ("pair_scale", -0.1),
        ("soft_scale", -0.1),
        ("label_weight", -0.1),
        ("alpha_ceiling", 1.1),
        ("alpha_ceiling", -0.1),
        ("on_policy_fraction", 1.1),
        ("on_policy_fraction", -0.1),
        ("group_size", 1),
        ("pair_target", "medium"),
        ("normalize", "rows"),
        ("group", "best"),
        ("alpha_shape", "stairs"),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^grkd: .*{option}.*{value}"):
        objectives.load("grkd", **{option: value})
    with pytest.raises((UserError, TypeCheckError), match=f"{option}"):
        module.GRKD(**{option: value})


def test_candidates_are_checked_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in ("top", "sample"):
        objectives.load("grkd", group=group, group_size=6).check_candidates(6)
        with pytest.raises(UserError, match=r"group_size 7 .* 6 candidates"):
            objectives.load("grkd", group=group, group_size=7).check_candidates(6)
    for group in ("all", "auto"):  # up to the limit, "auto" takes all
        objectives.load("grkd", group=group, group_size=7).check_candidates(6)
    monkeypatch.setattr(module, "_ALL_UP_TO", 5)
    with pytest.raises(UserError, match="group_size 7"):
        objectives.load("grkd", group="auto", group_size=7).check_candidates(6)


def test_tau_squared_multiplies_the_pairs() -> None:
    student, teacher = scores()
    batch = Batch(student=student, teacher=teacher, progress=1.0)
    torch.testing.assert_close(loss_of(batch, tau=3.0, tau_squared=True), 9 * loss_of(batch, tau=3.0))
    start = replace(batch, progress=0.0)
    assert torch.equal(loss_of(start, tau=3.0, tau_squared=True), loss_of(start, tau=3.0))


def test_a_label_on_a_missing_candidate_does_not_count() -> None:
    student, teacher = scores(rows=3, candidates=4)
    student.requires_grad_()
    mask = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    batch = Batch(student=student, teacher=teacher, mask=mask, labels=torch.tensor([3, 1, 2]), progress=0.0)
    term = objectives.load("grkd", label_weight=1.0).terms(batch)[-1]
    assert (term.name, term.counted.tolist()) == ("labels", [False, True, True])
    expected = -student[1:].log_softmax(-1)[[0, 1], [1, 2]]
    torch.testing.assert_close(term.rows, torch.cat([torch.zeros(1, dtype=torch.float64), expected]))
