"""Rank fidelity against scipy and plain Python loops."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.stats import kendalltau
from torch import Tensor

from grkd import losses
from grkd.errors import UserError
from grkd.metrics import rank
from grkd.metrics.rank_measures import response_measures

MEASURES: dict[str, Callable[..., Tensor]] = {
    "pair_accuracy": rank.pair_accuracy,
    "kendall_tau_b": rank.kendall_tau_b,
    "top1_agreement": rank.top1_agreement,
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Scores on a coarse grid, so that ties are common, and any mask."""
    rows, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    size = rows * candidates
    grid = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    student, teacher = (torch.tensor(draw(grid)).float().reshape(rows, candidates) for _ in range(2))
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(rows, candidates)
    return student, teacher, mask


def scores(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, noise = (torch.randn(*shape, generator=generator) for _ in range(2))
    return student, student + noise


def accuracy_by_hand(student: list[float], teacher: list[float]) -> float:
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if teacher[i] > teacher[j]]
    points = [1.0 if student[i] > student[j] else 0.5 if student[i] == student[j] else 0.0 for i, j in pairs]
    return sum(points) / len(points) if points else math.nan


@given(cases())
def test_pair_accuracy_is_that_of_plain_loops(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, mask = case
    found = rank.pair_accuracy(student, teacher, mask=mask)
    rows = zip(student, teacher, mask, strict=True)
    expected = [accuracy_by_hand(s[exists].tolist(), t[exists].tolist()) for s, t, exists in rows]
    assert found.tolist() == pytest.approx(expected, nan_ok=True)


@given(cases())
def test_tau_is_scipys(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, mask = case
    found = rank.kendall_tau_b(student, teacher, mask=mask)
    rows = zip(student, teacher, mask, strict=True)
    # scipy refuses a single entry with a warning; like a constant one it has no tau.
    expected = [kendalltau(s[exists], t[exists]).statistic if exists.sum() > 1 else math.nan for s, t, exists in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_tau_is_scipys_without_ties() -> None:
    student, teacher = scores(20, 60)
    expected = [kendalltau(s, t).statistic for s, t in zip(student, teacher, strict=True)]
    assert rank.kendall_tau_b(student, teacher).tolist() == pytest.approx(expected, rel=1e-12)
    # Without ties the two measures say the same: tau = 2 accuracy - 1.
    torch.testing.assert_close(
        rank.kendall_tau_b(student, teacher), 2 * rank.pair_accuracy(student, teacher) - 1, rtol=1e-12, atol=1e-12
    )


def test_worked_examples() -> None:
    teacher = torch.tensor([[3.0, 2.0, 1.0]] * 4 + [[1.0, 1.0, 1.0]])
    student = torch.tensor([[9.0, 5.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    accuracy = rank.pair_accuracy(student, teacher).tolist()
    assert accuracy == pytest.approx([1.0, 0.0, 2 / 3, 0.5, math.nan], nan_ok=True)
    tau = rank.kendall_tau_b(student, teacher).tolist()
    assert tau == pytest.approx([1.0, -1.0, 1 / 3, math.nan, math.nan], nan_ok=True)
    top1 = rank.top1_agreement(student, teacher).tolist()
    assert top1 == pytest.approx([1.0, 0.0, 0.0, 1.0, math.nan], nan_ok=True)


@given(cases())
def test_top1_is_one_of_the_teachers_highest(case: tuple[Tensor, Tensor, Tensor]) -> None:
    """Of tiers or verifiers many are: the first of them is no better than the others."""
    expected = []
    for student, teacher, mask in zip(*case, strict=True):
        kept = mask.nonzero().flatten().tolist()
        of_teacher = {k: float(teacher[k]) for k in kept}
        favourite = max(kept, key=lambda k: float(student[k])) if kept else None
        ordered = len(set(of_teacher.values())) > 1
        expected.append(float(of_teacher[favourite] == max(of_teacher.values())) if ordered else math.nan)
    student, teacher, mask = case
    assert rank.top1_agreement(student, teacher, mask=mask).tolist() == pytest.approx(expected, nan_ok=True)


def test_responses_without_an_order_say_nothing_of_it() -> None:
    student, mask = torch.tensor([[0.0, 2.0, 1.0]] * 3), torch.tensor([[True] * 3, [True] * 3, [True, False, False]])
    teacher = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    found = response_measures(student, teacher, mask)
    assert found["top1_agreement"].tolist() == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)
    for name in ("pair_accuracy", "kendall_tau", "ndcg", "brier"):
        assert found[name].isnan().tolist() == [False, True, True], name


def test_top1_leaves_out_what_is_masked() -> None:
    student = torch.tensor([[9.0, 5.0, math.nan], [9.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[1.0, 4.0, 9.0], [1.0, 4.0, 9.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[False, True, False], [True, True, False], [False, False, False]])
    found = rank.top1_agreement(student, teacher, mask=mask).tolist()
    assert found == pytest.approx([math.nan, 0.0, math.nan], nan_ok=True)


@each_measure
def test_chunks_equal_the_whole(measure: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = scores(2, 5, 8)
    whole = measure(student, teacher)
    assert whole.shape == (2, 5)
    monkeypatch.setattr(rank, "_ENTRIES", 150)  # two rows per chunk
    assert torch.equal(measure(student, teacher), whole)


@each_measure
@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_nothing_masked_counts(measure: Callable[..., Tensor], junk: float) -> None:
    student, teacher = scores(6, 9)
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    clean = measure(student, teacher, mask=mask)
    dirty = measure(student.masked_fill(~mask, junk), teacher.masked_fill(~mask, junk), mask=mask)
    assert clean.isfinite().all()
    assert torch.equal(dirty, clean)
    assert not torch.equal(clean, measure(student, teacher))


@each_measure
def test_bf16_and_no_gradient(measure: Callable[..., Tensor]) -> None:
    student, teacher = (tensor.bfloat16().requires_grad_() for tensor in scores(6, 9))
    found = measure(student, teacher)
    assert not found.requires_grad
    assert torch.equal(found, measure(student.double(), teacher.double()))


@each_measure
def test_shapes_that_differ_are_refused(measure: Callable[..., Tensor]) -> None:
    with pytest.raises((ValueError, TypeCheckError)):
        measure(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises((ValueError, TypeCheckError)):
        measure(torch.zeros(3, 4), torch.zeros(1, 4))


@each_measure
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (3,)])
def test_a_mask_never_broadcasts(measure: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mask has shape"):
        measure(torch.zeros(3, 4), torch.zeros(3, 4), mask=torch.ones(shape, dtype=torch.bool))


def test_fidelity_over_all_candidates() -> None:
    student, teacher = scores(6, 30)
    found = rank.rank_fidelity(student, teacher, top_k=None)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        ("soft_cross_entropy_nats", "forward_kl_nats", "pair_accuracy", "kendall_tau", "top1_agreement"), (6,)
    )
    assert torch.equal(found["soft_cross_entropy_nats"], losses.soft_target(student, teacher))
    assert torch.equal(found["forward_kl_nats"], losses.forward_kl(student, teacher))
    assert torch.equal(found["pair_accuracy"], rank.pair_accuracy(student, teacher))
    assert torch.equal(found["kendall_tau"], rank.kendall_tau_b(student, teacher))
    assert torch.equal(found["top1_agreement"], rank.top1_agreement(student, teacher))
    assert 0 < found["top1_agreement"].mean() < 1


def test_fidelity_ranks_the_teachers_top_k_only() -> None:
    student, teacher = scores(6, 30)
    found, over_all = (rank.rank_fidelity(student, teacher, top_k=top_k) for top_k in (5, None))
    for row in range(6):
        best = sorted(range(30), key=lambda k: -float(teacher[row, k]))[:5]
        expected = kendalltau(student[row, best], teacher[row, best]).statistic
        assert found["kendall_tau"][row].item() == pytest.approx(expected, rel=1e-12)
        hand = accuracy_by_hand(student[row, best].tolist(), teacher[row, best].tolist())
        assert found["pair_accuracy"][row].item() == pytest.approx(hand)
    assert not torch.equal(found["kendall_tau"], over_all["kendall_tau"])
    for name in ("soft_cross_entropy_nats", "forward_kl_nats", "top1_agreement"):
        assert torch.equal(found[name], over_all[name])


def test_fidelity_of_the_teacher_itself() -> None:
    _, teacher = scores(6, 30)
    found = rank.rank_fidelity(teacher + 1, teacher, top_k=8)
    for name in ("pair_accuracy", "kendall_tau", "top1_agreement"):
        assert (found[name] == 1).all()
    assert found["forward_kl_nats"].abs().max() < 1e-6


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_a_top_k_that_does_not_fit_is_a_user_error(top_k: int) -> None:
    with pytest.raises(UserError, match=f"top_k must be between 2 and the 4 candidates, got {top_k}"):
        rank.rank_fidelity(torch.zeros(3, 4), torch.zeros(3, 4), top_k=top_k)
