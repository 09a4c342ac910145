"""GRKD's options of pairs: weights, margins, z-scores, and pairs across the batch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import groups, losses, objectives
from grkd.errors import UserError
from grkd.losses import rank_discount, standardized, weighted_pairs
from grkd.objectives import Batch, combine
from grkd.objectives import grkd as module


def a_batch(rows: int = 5, candidates: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(student=student, teacher=2 * teacher, labels=torch.arange(rows), progress=1.0)


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("grkd", **options).terms(batch))


@pytest.mark.parametrize("target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_weights_of_all_candidates(target: str, normalize: str) -> None:
    batch = a_batch()
    options = {"pair_target": target, "normalize": normalize, "tau": 2.0}
    gaps = (batch.teacher / 3).softmax(-1)
    for weight, importance in (("probability_gap", gaps), ("rank", rank_discount(batch.teacher))):
        expected = weighted_pairs(batch.student, batch.teacher, importance=importance, **options).mean()
        found = loss_of(batch, pair_weight=weight, temperature=3.0, tau_squared=True, **options)
        torch.testing.assert_close(found, 4 * expected)


def test_weights_of_a_group() -> None:
    """Probabilities are those of the whole row, ranks those of the group."""
    batch = a_batch(candidates=12)
    chosen = groups.sample(batch.teacher, 5, generator=torch.Generator().manual_seed(3))
    student, teacher = batch.student.gather(-1, chosen.indices), batch.teacher.gather(-1, chosen.indices)
    gaps = batch.teacher.softmax(-1).gather(-1, chosen.indices)
    for weight, importance in (("probability_gap", gaps), ("rank", rank_discount(teacher))):
        again = replace(batch, generator=torch.Generator().manual_seed(3))
        found = loss_of(again, pair_weight=weight, normalize="candidates", group="sample", group_size=5)
        expected = weighted_pairs(student, teacher, importance=importance, normalize="candidates").mean()
        torch.testing.assert_close(found, expected)


def test_weights_of_responses_are_of_their_soft_targets() -> None:
    batch = replace(a_batch(), labels=None, level="response")
    options = {"level": "response", "response_soft": "responses", "response_tau": 0.5, "temperature": 2.0}
    for weight, importance in (("probability_gap", batch.teacher.softmax(-1)), ("rank", rank_discount(batch.teacher))):
        expected = weighted_pairs(batch.student, batch.teacher, importance=importance, tau=0.5).mean()
        torch.testing.assert_close(loss_of(batch, pair_weight=weight, **options), expected)


def test_margins_count_ties_and_rows_of_two() -> None:
    # A tie of the teacher has margin 0 and is learnt; with weights it weighs nothing.
    batch = Batch(student=torch.tensor([[1.0, 0.0]]), teacher=torch.tensor([[2.0, 2.0]]), progress=1.0)
    assert loss_of(batch, pair_target="margin", tau=2.0).item() == pytest.approx(0.25 / 8)
    assert loss_of(batch, pair_target="margin", pair_weight="rank") == 0
    assert loss_of(batch) == 0


def test_z_scores_of_pairs_and_of_soft_targets_are_apart() -> None:
    batch = replace(a_batch(), progress=0.5)
    scaled = replace(batch, student=standardized(batch.student), teacher=standardized(batch.teacher))
    options = {"tau": 0.7, "pair_weight": "probability_gap"}
    both = loss_of(batch, standardize=True, standardize_pairs=True, **options)
    torch.testing.assert_close(both, loss_of(scaled, **options))
    assert batch.teacher is not None
    found = {term.name: term.rows for term in objectives.load("grkd", standardize=True).terms(batch)}
    torch.testing.assert_close(found["soft_target"], losses.soft_target(scaled.student, scaled.teacher))
    torch.testing.assert_close(found["group_relative"], losses.group_relative(batch.student, batch.teacher))
    responses = replace(batch, level="response", labels=None)
    options = {"level": "response", "response_soft": "responses", "response_tau": 0.3, "standardize_pairs": True}
    found = {term.name: term.rows for term in objectives.load("grkd", **options).terms(responses)}
    expected = losses.group_relative(scaled.student, scaled.teacher, tau=0.3)
    torch.testing.assert_close(found["response_group_relative"], expected)


def log_softmax(values: list[float], temperature: float) -> list[float]:
    normaliser = math.log(sum(math.exp(value / temperature) for value in values))
    return [value / temperature - normaliser for value in values]


@pytest.mark.parametrize("weight", ["uniform", "probability_gap", "rank"])
@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_pairs_across_the_batch_by_hand(weight: str, target: str, normalize: str) -> None:
    batch, tau, temperature = a_batch(rows=4), 0.5, 2.0
    own, others = ([log_softmax(row, temperature) for row in x.tolist()] for x in (batch.student, batch.teacher))
    columns = []
    for k in range(6):
        s, t = [row[k] for row in own], [row[k] for row in others]
        rank = {value: place for place, value in enumerate(sorted(t, reverse=True), start=1)}
        v = [math.exp(value) if weight == "probability_gap" else 1 / math.log2(1 + rank[value]) for value in t]
        total = weights = 0.0
        for a in range(4):
            for b in range(4):
                if t[a] > t[b]:
                    w = 1.0 if weight == "uniform" else abs(v[a] - v[b])
                    q = 1.0 if target == "hard" else 1 / (1 + math.exp(-(t[a] - t[b]) / tau))
                    gap = (s[a] - s[b]) / tau
                    total += w * (q * math.log1p(math.exp(-gap)) + (1 - q) * math.log1p(math.exp(gap)))
                    weights += w
        columns.append(total / (weights if normalize == "pairs" else 4))
    options = {"pair_weight": weight, "pair_target": target, "normalize": normalize, "temperature": temperature}
    objective = objectives.load("grkd", tau=tau, tau_squared=True, across_batch=0.3, pair_scale=2.0, **options)
    term = next(term for term in objective.terms(replace(batch, progress=0.4)) if term.name == "across_batch")
    assert term.weight == pytest.approx(0.4 * 2 * 0.3 * tau**2)
    assert term.rows.tolist() == pytest.approx([sum(columns) / 6] * 4, rel=1e-10)  # every row carries it


def test_across_the_batch_gradcheck_and_permutations() -> None:
    batch = a_batch()
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(4)) < 0.7
    mask[1] = False
    batch = replace(batch, mask=mask)
    options = {"across_batch": 1.0, "pair_weight": "probability_gap", "pair_target": "soft"}

    def loss(student: Tensor, rows: Any = slice(None), classes: Any = slice(None)) -> Tensor:
        here = Batch(
            student=student[rows][:, classes],
            teacher=batch.teacher[rows][:, classes],
            mask=mask[rows][:, classes],
            progress=1.0,
        )
        return loss_of(here, **options)

    assert torch.autograd.gradcheck(loss, batch.student.clone().requires_grad_())
    plain = loss(batch.student)
    torch.testing.assert_close(loss(batch.student, rows=[3, 1, 0, 4, 2]), plain)
    torch.testing.assert_close(loss(batch.student, classes=[5, 1, 0, 4, 2, 3]), plain)
    # Rows are compared by log-probability: a shift of one row's logits says nothing.
    shift = torch.arange(5, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(loss(batch.student + shift), plain)
    # A row that does not exist is in no pair, and classes with one row are not counted.
    torch.testing.assert_close(loss(batch.student, rows=[0, 2, 3, 4]), plain)


def test_one_row_has_no_pair_across_the_batch() -> None:
    batch = a_batch(rows=1)
    torch.testing.assert_close(loss_of(batch, across_batch=1.0), loss_of(batch))
    assert objectives.load("grkd", across_batch=1.0).couples_rows
    assert not objectives.load("grkd").couples_rows


@pytest.mark.parametrize("name", ["across_batch", "across_relation", "across_listwise"])
def test_across_the_batch_needs_all_candidates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"group": "top"}, {"group": "sample"}, {"level": "both"}, {"level": "response"}):
        with pytest.raises(UserError, match=rf"^grkd: {name} .*set group: all"):
            objectives.load("grkd", **{name: 1.0}, **options)
    assert objectives.load("grkd", **{name: 1.0}).couples_rows
    monkeypatch.setattr(module, "_ALL_UP_TO", 5)
    with pytest.raises(UserError, match=rf"^grkd: {name} .*samples 6 candidates; set {name}: 0"):
        objectives.load("grkd", **{name: 1.0}).check_candidates(6)
    with pytest.raises(UserError, match=rf"^grkd: {name} .*samples 6 candidates"):
        loss_of(a_batch(), **{name: 1.0}, group_size=2)
    objectives.load("grkd", **{name: 1.0}, group="all").check_candidates(6)


@pytest.mark.parametrize(
    "options",
    [
        {"pair_target": "margin"},
        {"pair_weight": "rank"},
        {"standardize": True},
        {"standardize_pairs": True},
        {"across_batch": 0.5},
        {"across_relation": 0.5},
        {"across_listwise": 0.5},
        {"advantage_scale": 0.5},
    ],
    ids=str,
)
def test_the_fused_head_leaves_these_to_the_plain_form(options: dict[str, Any]) -> None:
    assert objectives.load("grkd").head_options(0.5) is not None
    assert objectives.load("grkd", **options).head_options(0.5) is None


def test_without_pairs_of_tokens_their_options_do_not_keep_the_head_away() -> None:
    found = objectives.load("grkd", level="response", pair_target="margin", pair_weight="rank").head_options(0.5)
    assert found == {"alpha": 0.5, "pair_scale": 0.0, "soft_scale": 1.0, "temperature": 1.0, "t_squared": False}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pair_weight", "gain"),
        ("across_batch", -1.0),
        ("across_relation", -1.0),
        ("across_listwise", -1.0),
        ("pair_target", "x"),
        ("advantage_scale", -1.0),
        ("advantage_temperature", 0.0),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^grkd: .*{option}"):
        objectives.load("grkd", **{option: value})
