"""GRKD's terms in O(rows) and O(candidates): relations and lists across the batch, and the advantage."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import losses, objectives
from grkd.errors import UserError
from grkd.objectives import Batch, _pair_terms
from tests.objectives.test_grkd_pairs import a_batch, log_softmax, loss_of


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_relations_across_the_batch_are_margins_of_z_scores(temperature: float) -> None:
    """Every pair of rows within every class, and dist's term."""
    batch = a_batch(rows=5)
    options = {"across_relation": 0.3, "relation_temperature": temperature, "temperature": 2.0}
    objective = objectives.load("grkd", pair_scale=7.0, tau=2.0, tau_squared=True, **options)
    term = next(term for term in objective.terms(replace(batch, progress=0.4)) if term.name == "across_relation")
    assert term.weight == pytest.approx(0.4 * 0.3)  # alpha's alone: neither pair_scale nor tau
    total = 0.0
    for k in range(6):
        own, others = (
            [math.exp(log_softmax(row, temperature)[k]) for row in x.tolist()] for x in (batch.student, batch.teacher)
        )
        z = []
        for values in (own, others):
            mean = sum(values) / 5
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
            z.append([(value - mean) / deviation for value in values])
        margins = [((z[0][a] - z[0][b]) - (z[1][a] - z[1][b])) ** 2 for a in range(5) for b in range(5) if a != b]
        total += sum(margins) / len(margins) * (5 - 1) / (4 * 5)
    assert term.rows.tolist() == pytest.approx([total / 6] * 5, rel=1e-10)
    dist = objectives.load("dist", temperature=temperature, t_squared=False, intra_class_weight=1.0)
    intra = next(term for term in dist.terms(batch) if term.name == "intra_class")
    torch.testing.assert_close(term.rows, intra.rows)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_relations_within_rows_are_dists_other_term_and_have_one_temperature(temperature: float) -> None:
    batch = a_batch(rows=5)
    options = {"across_relation": 0.3, "within_relation": 0.2, "temperature": 2.0, "relation_temperature": temperature}
    terms = {
        term.name: term
        for term in objectives.load("grkd", tau_squared=True, tau=2.0, **options).terms(replace(batch, progress=0.4))
    }
    dist = objectives.load("dist", temperature=temperature, t_squared=False)
    for term in dist.terms(batch):
        ours = terms.get({"inter_class": "within_relation", "intra_class": "across_relation"}.get(term.name, ""))
        if term.name != "labels":
            assert ours is not None
            torch.testing.assert_close(ours.rows, term.rows)
    assert terms["within_relation"].weight == pytest.approx(0.4 * 0.2)
    alone = objectives.load("grkd", pair_scale=0.0, within_relation=1.0)
    assert not alone.couples_rows
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[0, 1:] = False  # one candidate: nothing to relate
    masked = next(t for t in alone.terms(replace(batch, mask=mask)) if t.name == "within_relation").rows
    torch.testing.assert_close(
        masked[1:], losses.pearson_distance(batch.student.softmax(-1), batch.teacher.softmax(-1))[1:]
    )
    assert masked[0] == 0.0
    assert alone.head_options(0.5) is None
    with pytest.raises(UserError, match="relation_temperature"):
        objectives.load("grkd", relation_temperature=0.0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_lists_across_the_batch_by_hand(temperature: float) -> None:
    batch = a_batch(rows=4)
    options = {"across_listwise": 0.3, "temperature": temperature}
    objective = objectives.load("grkd", pair_scale=7.0, tau=2.0, tau_squared=True, **options)
    term = next(term for term in objective.terms(replace(batch, progress=0.4)) if term.name == "across_listwise")
    assert term.weight == pytest.approx(0.4 * 0.3)
    total = 0.0
    for k in range(6):
        own, others = (
            [math.exp(log_softmax(row, temperature)[k]) for row in x.tolist()] for x in (batch.student, batch.teacher)
        )
        s, t = ([value / sum(values) for value in values] for values in (own, others))
        total += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
    assert term.rows.tolist() == pytest.approx([total / 6] * 4, rel=1e-10)
    assert loss_of(replace(batch, student=batch.teacher), pair_scale=0.0, **options).item() == pytest.approx(
        0.0, abs=1e-12
    )
    # How much of a class there is in the batch says nothing: only whose it is.
    assert torch.autograd.gradcheck(
        lambda student: loss_of(replace(batch, student=student), **options), batch.student.clone().requires_grad_()
    )


def test_lists_under_a_mask_count_classes_of_two_rows() -> None:
    batch = a_batch(rows=4)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1:, 2] = False  # one row left in this class
    mask[3] = False
    found = loss_of(replace(batch, mask=mask), across_listwise=1.0, pair_scale=0.0)
    shares = []
    for values in (batch.student, batch.teacher):
        probabilities = values.masked_fill(~mask, -torch.inf)[:3].softmax(-1)[:, [0, 1, 3, 4, 5]]
        shares.append(probabilities / probabilities.sum(0))
    own, others = shares
    torch.testing.assert_close(found, (others * (others / own).log()).sum(0).mean())


def test_relations_under_a_mask_count_classes_of_two_rows() -> None:
    batch = a_batch(rows=4)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1:, 2] = False  # one row left in this class
    mask[3] = False
    options = {"across_relation": 1.0, "pair_scale": 0.0}
    found = loss_of(replace(batch, mask=mask), **options)
    probabilities = []
    for values in (batch.student, batch.teacher):
        filled = values.masked_fill(~mask, -torch.inf)[:3]
        probabilities.append(filled.softmax(-1))
    kept = [0, 1, 3, 4, 5]
    expected = losses.pearson_distance(*(values[:, kept].T for values in probabilities)).mean()
    torch.testing.assert_close(found, expected)


def test_the_advantage_is_under_alpha_with_a_temperature_of_its_own() -> None:
    batch = a_batch()
    options = {"advantage_scale": 3.0, "advantage_temperature": 0.5, "temperature": 2.0, "pair_scale": 0.0}
    objective = objectives.load("grkd", token_weight=0.5, **options)
    terms = {term.name: term for term in objective.terms(replace(batch, progress=0.25))}
    assert set(terms) == {"advantage", "soft_target"}
    assert terms["advantage"].weight == pytest.approx(0.5 * 0.25 * 3.0)
    expected = losses.expected_disagreement(batch.student, batch.teacher, temperature=0.5)
    torch.testing.assert_close(terms["advantage"].rows, expected)
    assert not objective.couples_rows
    responses = replace(batch, level="response", labels=None, progress=0.25)
    options |= {"level": "response", "response_tau": 0.1, "response_weight": 2.0}
    (term,) = objectives.load("grkd", **options).terms(responses)
    assert (term.name, term.weight) == ("response_advantage", pytest.approx(2.0 * 0.25 * 3.0))
    expected = losses.expected_disagreement(batch.student, batch.teacher, temperature=0.05)
    torch.testing.assert_close(term.rows, expected)


def test_a_teacher_temperature_is_a_teacher_with_other_scores() -> None:
    batch = a_batch(rows=4)
    assert batch.teacher is not None
    options = {
        "across_listwise": 2.0, "across_relation": 1.0, "advantage_scale": 1.0, "pair_target": "soft",
        "pair_weight": "probability_gap", "temperature": 2.0,
    }  # fmt: skip
    sharpened = replace(batch, teacher=batch.teacher / 0.5)
    torch.testing.assert_close(loss_of(batch, teacher_temperature=0.5, **options), loss_of(sharpened, **options))
    # The student that has the sharpened scores is done, at any temperature of the loss (the advantage wants more).
    options |= {"advantage_scale": 0.0}
    student = (batch.teacher / 0.5).clone().requires_grad_()
    loss = loss_of(replace(batch, student=student), teacher_temperature=0.5, **options)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-12
    assert objectives.load("grkd", teacher_temperature=0.5).head_options(0.5) is None
    assert objectives.load("grkd").head_options(0.5) is not None
    # Scores of responses are not touched.
    responses = replace(batch, level="response", labels=None)
    level = {"level": "response", "response_tau": 1.0}
    torch.testing.assert_close(loss_of(responses, teacher_temperature=0.5, **level), loss_of(responses, **level))


def test_terms_at_one_temperature_share_their_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def counting(scores: Tensor, exists: Tensor | None, temperature: float) -> Tensor:
        calls.append(temperature)
        return losses.masked_log_softmax(scores, exists, temperature)

    monkeypatch.setattr(_pair_terms, "masked_log_softmax", counting)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    options: dict[str, Any] = {"across_relation": 32.0, "across_listwise": 64.0, "within_relation": 1.0}
    objectives.load("grkd", **options, temperature=2.0).terms(Batch(student=student, teacher=teacher, progress=0.5))
    assert sorted(calls) == [1.0, 1.0, 2.0, 2.0]  # relations at their own temperature, soft targets with the lists
