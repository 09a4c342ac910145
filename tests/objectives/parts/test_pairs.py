"""Pairs: its groups, its pairs of rows, given votes, and pair forms of one's own."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd import groups, losses, objectives
from grkd.errors import UserError
from grkd.objectives import GRKD, Batch, Votes
from grkd.objectives.parts import pairs as module
from grkd.objectives.parts.pairs import Pairs
from tests.objectives.parts._scores import a_batch, log_softmax, loss_of, ranked_by, responses, term_of


@pytest.mark.parametrize("group", ["top", "sample"])
def test_a_group_is_the_loss_on_its_candidates(group: Any) -> None:
    batch = a_batch(candidates=12)
    assert batch.teacher is not None
    chosen = groups.choose(batch.teacher, group, size=5, temperature=1.5, generator=torch.Generator().manual_seed(3))
    assert chosen is not None
    expected = losses.group_relative(
        batch.student.gather(-1, chosen.indices), batch.teacher.gather(-1, chosen.indices)
    ).mean()
    batch = replace(batch, seeds=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss_of(batch, Pairs(group=group, group_size=5, group_temperature=1.5)), expected)
    assert not torch.isclose(expected, loss_of(batch, Pairs(group="all")))


def test_auto_takes_all_up_to_a_limit_then_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(group: Any) -> Tensor:
        batch = replace(a_batch(candidates=12), seeds=torch.Generator().manual_seed(3))
        return loss_of(batch, Pairs(group=group, group_size=5))

    assert not torch.isclose(loss("all"), loss("sample"))
    monkeypatch.setattr(module, "_ALL_UP_TO", 12)
    assert torch.equal(loss("auto"), loss("all"))
    monkeypatch.setattr(module, "_ALL_UP_TO", 11)
    assert torch.equal(loss("auto"), loss("sample"))


def test_a_group_without_a_pair_is_not_counted() -> None:
    # The teacher's top two of row 0 tie, so its group has no pair although the row has some.
    teacher = torch.tensor([[2.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    student = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    loss = loss_of(Batch(student=student, teacher=teacher), Pairs(group="top", group_size=2))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))


def test_no_row_with_a_pair_gives_zero_and_no_gradient() -> None:
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = loss_of(Batch(student=student, teacher=torch.ones(3, 4)), Pairs())
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_candidates_are_checked_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in ("top", "sample"):
        ranked_by(Pairs(group=group, group_size=6)).check_candidates(6)
        with pytest.raises(UserError, match=r"group_size 7 .* 6 candidates"):
            ranked_by(Pairs(group=group, group_size=7)).check_candidates(6)
    for group in ("all", "auto"):  # up to the limit, "auto" takes all
        ranked_by(Pairs(group=group, group_size=7)).check_candidates(6)
    ranked_by(Pairs(level="response", group="top", group_size=7)).check_candidates(6)  # of responses, not of classes
    monkeypatch.setattr(module, "_ALL_UP_TO", 5)
    with pytest.raises(UserError, match="group_size 7"):
        ranked_by(Pairs(group_size=7)).check_candidates(6)


def test_all_pairs_of_a_vocabulary_are_refused() -> None:
    with pytest.raises(UserError, match="all pairs of a vocabulary do not fit into memory"):
        ranked_by(Pairs(group="all")).check_for_tokens()
    for fitting in (Pairs(), Pairs(group="top"), Pairs(level="response", group="all")):
        ranked_by(fitting).check_for_tokens()


def test_a_sized_group_asks_for_its_candidates() -> None:
    assert ranked_by(Pairs(group="top", group_size=50)).least_candidates == 50
    assert ranked_by(Pairs(group_size=50)).least_candidates == GRKD().least_candidates == 2


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_pairs_over_the_batch_by_hand(target: str, normalize: Any) -> None:
    batch, tau, temperature = a_batch(rows=4, progress=0.4), 0.5, 2.0
    assert batch.teacher is not None
    own, others = ([log_softmax(row, temperature) for row in x.tolist()] for x in (batch.student, batch.teacher))
    columns = []
    for k in range(6):
        s, t = [row[k] for row in own], [row[k] for row in others]
        total = count = 0.0
        for a in range(4):
            for b in range(4):
                if t[a] > t[b]:
                    q = 1.0 if target == "hard" else 1 / (1 + math.exp(-(t[a] - t[b]) / tau))
                    gap = (s[a] - s[b]) / tau
                    total += q * math.log1p(math.exp(-gap)) + (1 - q) * math.log1p(math.exp(gap))
                    count += 1
        columns.append(total / (count if normalize == "pairs" else 4))
    part = Pairs(over="batch", weight=0.6, tau=tau, target=target, normalize=normalize, temperature=temperature)
    term = term_of(batch, part)
    assert term.weight == pytest.approx(0.4 * 0.6)
    assert term.rows.tolist() == pytest.approx([sum(columns) / 6] * 4, rel=1e-10)  # every row carries it


def test_over_the_batch_gradcheck_and_permutations() -> None:
    batch = a_batch()
    assert batch.teacher is not None
    teacher = batch.teacher
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(4)) < 0.7
    mask[1] = False
    part = Pairs(over="batch", target="soft")

    def loss(student: Tensor, rows: Any = slice(None), classes: Any = slice(None)) -> Tensor:
        here = [scores[rows][:, classes] for scores in (student, teacher, mask)]
        return loss_of(Batch(student=here[0], teacher=here[1], mask=here[2]), part)

    assert torch.autograd.gradcheck(loss, batch.student.clone().requires_grad_())
    plain = loss(batch.student)
    torch.testing.assert_close(loss(batch.student, rows=[3, 1, 0, 4, 2]), plain)
    torch.testing.assert_close(loss(batch.student, classes=[5, 1, 0, 4, 2, 3]), plain)
    # Rows are compared by log-probability: a shift of one row's logits says nothing.
    torch.testing.assert_close(loss(batch.student + torch.arange(5, dtype=torch.float64).unsqueeze(-1)), plain)
    # A row that does not exist is in no pair, and classes with one row are not counted.
    torch.testing.assert_close(loss(batch.student, rows=[0, 2, 3, 4]), plain)


def test_one_row_has_no_pair_over_the_batch() -> None:
    assert loss_of(a_batch(rows=1), Pairs(over="batch")) == 0
    assert ranked_by(Pairs(over="batch")).couples_rows
    assert not ranked_by(Pairs(over="batch", weight=0.0), Pairs()).couples_rows


def test_over_the_batch_needs_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"group": "top"}, {"group": "sample"}):
        with pytest.raises(UserError, match=r"^pairs: over: batch .*set group: all"):
            Pairs(over="batch", **options)
    with pytest.raises(UserError, match="over: batch compares rows; set level: row"):
        Pairs(over="batch", level="response")
    monkeypatch.setattr(module, "_ALL_UP_TO", 5)
    with pytest.raises(UserError, match=r"over: batch .*samples of 6 candidates; set group: all"):
        ranked_by(Pairs(over="batch")).check_candidates(6)
    with pytest.raises(UserError, match=r"samples of 6 candidates"):
        loss_of(a_batch(), Pairs(over="batch", group_size=2))
    ranked_by(Pairs(over="batch", group="all")).check_candidates(6)


@pytest.mark.parametrize("tau", [0.1, 2.0])
def test_votes_of_one_ranker_with_a_strict_order_are_the_printed_loss(tau: float) -> None:
    batch = responses()
    assert batch.teacher is not None
    order = batch.teacher.unsqueeze(-1) - batch.teacher.unsqueeze(-2)
    votes = Votes(targets=(order > 0).double(), weights=torch.ones(3, 4, 4, dtype=torch.float64))
    part = Pairs(level="response", tau=tau)
    expected = term_of(batch, part)
    found = term_of(replace(batch, votes=votes, teacher=None), part)
    torch.testing.assert_close(found.rows, expected.rows, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.counted, expected.counted)


def test_votes_put_pairs_between_tiers_alone() -> None:
    """The best two of four are one tier, the others another: no pair inside a tier."""
    student = torch.tensor([[0.3, -0.2, 0.9, 0.1]], dtype=torch.float64)
    tier = torch.tensor([1, 1, 0, 0])
    targets = (tier[:, None] > tier[None, :]).double().unsqueeze(0)
    weights = (tier[:, None] != tier[None, :]).double().unsqueeze(0)
    batch = Batch(student=student, level="response", votes=Votes(targets=targets, weights=weights))
    s = student[0].tolist()
    expected = sum(math.log1p(math.exp(s[j] - s[i])) for i in (0, 1) for j in (2, 3)) / 4
    assert loss_of(batch, Pairs(level="response")).item() == pytest.approx(expected)


def test_the_head_gets_its_options() -> None:
    found = Pairs(weight=3.0, tau=2.0, target="soft", group="top", group_size=7, normalize="candidates").head_options()
    assert found == {
        "pair_scale": 3.0,
        "pair_target": losses.SOFT,
        "tau": 2.0,
        "normalize": "candidates",
        "group": "top",
        "group_size": 7,
        "group_temperature": 1.0,
    }
    assert Pairs(over="batch").head_options() is None


FORM = """
from grkd.losses import PairForm
HINGE = PairForm("hinge", lambda d, D: (1 - d).relu(), lambda d, D: -(d < 1).to(d.dtype))
NUMBER = 3
"""


def test_a_pair_form_of_ones_own_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_pair_forms.py").write_text(FORM)
    monkeypatch.chdir(tmp_path)
    objective = objectives.load("grkd", **{"pairs.target": "my_pair_forms:HINGE"})
    batch = Batch(student=torch.tensor([[1.5, 0.0, 1.0]]), teacher=torch.tensor([[3.0, 2.0, 1.0]]), progress=1.0)
    assert objective.terms(batch)[0].total().item() == pytest.approx((0.0 + 0.5 + 2.0) / 3)
    assert objective.head_options(0.5) is None  # no kernel knows it
    assert type(objective).spelt_out({"pairs.target": "my_pair_forms:HINGE"}) == {
        "ranking": [{"part": "pairs", "target": "my_pair_forms:HINGE"}]
    }
    with pytest.raises(UserError, match=r"my_pair_forms:NUMBER is a int, it must be a grkd.losses.PairForm"):
        Pairs(target="my_pair_forms:NUMBER")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tau", 0.0),
        ("temperature", -1.0),
        ("group_temperature", 0.0),
        ("weight", -0.1),
        ("group_size", 1),
        ("target", "medium"),
        ("normalize", "rows"),
        ("group", "best"),
        ("tau", "1"),
        ("level", "token"),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises((UserError, TypeCheckError), match=option):
        Pairs(**{option: value})
    with pytest.raises(UserError, match=f"^grkd: pairs.*{option}.*{value}"):
        objectives.load("grkd", **{f"pairs.{option}": value})


def test_a_softmax_over_the_majority_of_votes_is_that_over_the_order() -> None:
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    part = Pairs(pool="softmax", tau=0.5, level="response")
    plain = term_of(Batch(student=student, teacher=teacher, level="response"), part)
    share = torch.where(teacher.unsqueeze(-1) > teacher.unsqueeze(-2), 0.75, 0.25).double().triu(1)
    voted = term_of(Batch(student=student, votes=Votes(targets=share), level="response"), part)
    torch.testing.assert_close(voted.rows, plain.rows)
    torch.testing.assert_close(plain.rows, losses.plackett_luce(student / 0.5, teacher) / 3)
    none = Votes(targets=share, weights=torch.zeros_like(share))
    assert not term_of(Batch(student=student, votes=none, level="response"), part).counted.any()
    with pytest.raises(UserError, match="set target: hard"):
        Pairs(pool="softmax", target="soft")
