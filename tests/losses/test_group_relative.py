"""The group relative loss against pairs spelt out in plain Python, and its properties."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.losses import _group_relative, group_relative

FORMS = [(target, normalize) for target in ("hard", "soft") for normalize in ("pairs", "candidates")]
all_forms = pytest.mark.parametrize(("pair_target", "normalize"), FORMS)
Case = tuple[Tensor, Tensor, Tensor]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return math.exp(log_sigmoid(x))


def by_hand(s: list[float], t: list[float], exists: list[bool], tau: float, pair_target: str, normalize: str) -> float:
    """One row's loss, pair by pair."""
    total, pairs = 0.0, 0
    for i in range(len(s)):
        for j in range(len(s)):
            if not (exists[i] and exists[j] and t[i] > t[j]):
                continue
            pairs += 1
            gap, teacher_gap = (s[i] - s[j]) / tau, (t[i] - t[j]) / tau
            if pair_target == "hard":
                total -= log_sigmoid(gap)
            else:
                total -= sigmoid(teacher_gap) * log_sigmoid(gap) + sigmoid(-teacher_gap) * log_sigmoid(-gap)
    return total / max(1, pairs if normalize == "pairs" else sum(exists))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Student and teacher scores on a grid of quarters (ties in both), and any mask; float64."""
    rows, candidates = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    size = rows * candidates
    grid = st.lists(st.integers(-20, 20), min_size=size, max_size=size)
    student, teacher = (torch.tensor(draw(grid), dtype=torch.float64).reshape(rows, candidates) / 4 for _ in range(2))
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(rows, candidates)
    return student, teacher, mask


def random_case(rows: int = 5, candidates: int = 7, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, candidates, generator=generator, dtype=torch.float64)
    teacher = (2 * torch.randn(rows, candidates, generator=generator, dtype=torch.float64)).round(decimals=0)
    mask = torch.rand(rows, candidates, generator=generator) < 0.8
    return student, teacher, mask


def loss_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    rows = loss(leaf)
    rows.sum().backward()
    assert leaf.grad is not None
    return rows.detach(), leaf.grad


@all_forms
@given(case=cases(), tau=st.sampled_from([0.25, 1.0, 3.0]))
def test_equals_plain_loops(case: Case, tau: float, pair_target: str, normalize: str) -> None:
    student, teacher, mask = case
    found = group_relative(student, teacher, mask=mask, tau=tau, pair_target=pair_target, normalize=normalize)
    rows = zip(student.tolist(), teacher.tolist(), mask.tolist(), strict=True)
    expected = [by_hand(s, t, exists, tau, pair_target, normalize) for s, t, exists in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_worked_example() -> None:
    # Teacher: 0 over 1 over 2. Gaps of the student: 0-1: 1, 0-2: 0, 1-2: -1.
    found = group_relative(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[3.0, 2.0, 1.0]]))
    expected = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + math.exp(1))) / 3
    assert found.item() == pytest.approx(expected, rel=1e-6)


@all_forms
def test_gradcheck(pair_target: str, normalize: str) -> None:
    student, teacher, mask = random_case()

    def loss(scores: Tensor) -> Tensor:
        return group_relative(scores, teacher, mask=mask, tau=0.7, pair_target=pair_target, normalize=normalize)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


@all_forms
@given(case=cases(), student_shift=st.integers(-40, 40), teacher_shift=st.integers(-40, 40))
def test_shifts_of_either_side_change_nothing(
    case: Case, student_shift: int, teacher_shift: int, pair_target: str, normalize: str
) -> None:
    student, teacher, mask = case
    options = {"mask": mask, "pair_target": pair_target, "normalize": normalize}
    plain = group_relative(student, teacher, **options)
    shifted = group_relative(student + student_shift / 4, teacher + teacher_shift / 4, **options)
    torch.testing.assert_close(shifted, plain, rtol=1e-12, atol=1e-12)


@all_forms
@given(case=cases(), seed=st.integers(0, 1000))
def test_candidates_may_be_permuted(case: Case, seed: int, pair_target: str, normalize: str) -> None:
    student, teacher, mask = case
    order = torch.randperm(student.shape[-1], generator=torch.Generator().manual_seed(seed))
    options = {"pair_target": pair_target, "normalize": normalize}
    plain, gradient = loss_and_gradient(lambda s: group_relative(s, teacher, mask=mask, **options), student)
    moved, moved_gradient = loss_and_gradient(
        lambda s: group_relative(s, teacher[:, order], mask=mask[:, order], **options), student[:, order]
    )
    torch.testing.assert_close(moved, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved_gradient, gradient[:, order], rtol=1e-12, atol=1e-12)


@given(case=cases(), step=st.sampled_from([0.25, 1.0, 5.0]))
def test_the_hard_loss_falls_when_the_best_gains_margin(case: Case, step: float) -> None:
    student, teacher, mask = case
    has_pair = group_relative(student, teacher, mask=mask) > 0
    best = teacher.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    # The teacher's best is never the worse one of a pair: raising it widens margins and narrows none.
    raised = student.scatter_add(-1, best, torch.full_like(best, 1, dtype=torch.float64) * step)
    before, after = group_relative(student, teacher, mask=mask), group_relative(raised, teacher, mask=mask)
    assert (after < before)[has_pair].all()
    assert torch.equal(after[~has_pair], before[~has_pair])


@all_forms
@given(case=cases())
def test_masked_equals_the_subset(case: Case, pair_target: str, normalize: str) -> None:
    student, teacher, mask = case
    options = {"pair_target": pair_target, "normalize": normalize}
    found = group_relative(student, teacher, mask=mask, **options)
    for row, exists in enumerate(mask):
        subset = group_relative(student[row, exists], teacher[row, exists], **options) if exists.any() else 0.0
        assert float(found[row]) == pytest.approx(float(subset), rel=1e-12, abs=1e-15)


@all_forms
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_nothing_masked_reaches_value_or_gradient(junk: float, pair_target: str, normalize: str) -> None:
    student, teacher, mask = random_case()
    options = {"mask": mask, "pair_target": pair_target, "normalize": normalize}
    clean, clean_gradient = loss_and_gradient(lambda s: group_relative(s, teacher, **options), student)
    dirty_teacher = teacher.masked_fill(~mask, junk)
    dirty, gradient = loss_and_gradient(
        lambda s: group_relative(s, dirty_teacher, **options), student.masked_fill(~mask, junk)
    )
    assert torch.equal(dirty, clean)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~mask] == 0).all()


@all_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_large_scores(dtype: torch.dtype, pair_target: str, normalize: str) -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]])
    teacher = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 0.5, -0.5]])
    found, gradient = loss_and_gradient(
        lambda s: group_relative(s, 1e4 * teacher.to(dtype), pair_target=pair_target, normalize=normalize),
        1e4 * signs.to(dtype),
    )
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@all_forms
def test_bf16_scores_are_computed_in_float32(pair_target: str, normalize: str) -> None:
    student, teacher, _ = random_case()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    options = {"pair_target": pair_target, "normalize": normalize}
    found, gradient = loss_and_gradient(lambda s: group_relative(s, teacher, **options), student)
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(found, group_relative(student.float(), teacher.float(), **options))
    exact = group_relative(student.double(), teacher.double(), **options)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_pairs_that_bf16_would_tie_are_kept() -> None:
    teacher = torch.tensor([[10.01, 10.0]])
    student = torch.tensor([[0.0, 0.0]])
    assert group_relative(student, teacher).item() == pytest.approx(math.log(2))
    assert group_relative(student.bfloat16(), teacher).item() == pytest.approx(math.log(2))
    assert group_relative(student, teacher.bfloat16()).item() == 0.0


@given(case=cases(), tau=st.sampled_from([0.5, 1.0, 4.0]), shift=st.integers(-8, 8))
def test_soft_pairs_have_their_minimum_at_the_teacher(case: Case, tau: float, shift: int) -> None:
    other, teacher, mask = case
    options = {"mask": mask, "tau": tau, "pair_target": "soft"}
    least, gradient = loss_and_gradient(lambda s: group_relative(s, teacher, **options), teacher + shift / 4)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)
    assert (group_relative(other, teacher, **options) >= least - 1e-12).all()


def test_hard_pairs_have_no_finite_minimum() -> None:
    _, teacher, _ = random_case()
    _, gradient = loss_and_gradient(lambda s: group_relative(s, teacher), teacher)
    assert gradient.abs().max() > 1e-3
    assert (group_relative(10 * teacher, teacher) < group_relative(teacher, teacher)).all()


@all_forms
def test_rows_without_a_pair_give_zero_and_no_gradient(pair_target: str, normalize: str) -> None:
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    teacher = torch.tensor([[1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 2.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False], [False, True, True]])
    found, gradient = loss_and_gradient(
        lambda s: group_relative(s, teacher, mask=mask, pair_target=pair_target, normalize=normalize), student
    )
    assert found.tolist() == [0.0] * 4
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher, _ = random_case()
    teacher.requires_grad_()
    group_relative(student.requires_grad_(), teacher, pair_target="soft").sum().backward()
    assert teacher.grad is None


@all_forms
@pytest.mark.parametrize("tile", [1, 20, 100, 160])
def test_tiles_equal_dense(monkeypatch: pytest.MonkeyPatch, tile: int, pair_target: str, normalize: str) -> None:
    student, teacher, mask = random_case()

    def loss(scores: Tensor) -> Tensor:
        return group_relative(scores, teacher, mask=mask, tau=0.6, pair_target=pair_target, normalize=normalize)

    dense, dense_gradient = loss_and_gradient(loss, student)
    tiles = []
    whole = _group_relative._tile
    monkeypatch.setattr(_group_relative, "_tile", lambda *args: tiles.append(0) or whole(*args))
    monkeypatch.setattr(_group_relative, "_TILE", tile)
    tiled, tiled_gradient = loss_and_gradient(loss, student)
    assert len(tiles) > 2, "the tiled path was not taken"
    torch.testing.assert_close(tiled, dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tiled_gradient, dense_gradient, rtol=1e-12, atol=1e-12)


def test_leading_axes_are_rows() -> None:
    student, teacher, mask = random_case(rows=6)
    found = group_relative(student.reshape(2, 3, 7), teacher.reshape(2, 3, 7), mask=mask.reshape(2, 3, 7))
    assert torch.equal(found, group_relative(student, teacher, mask=mask).reshape(2, 3))


def test_no_rows_give_no_losses() -> None:
    assert group_relative(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 1), (5,), (5, 7, 1)])
def test_a_mask_never_broadcasts(shape: tuple[int, ...]) -> None:
    student, teacher, _ = random_case()
    with pytest.raises((ValueError, TypeCheckError), match="mask has shape"):
        group_relative(student, teacher, mask=torch.ones(shape, dtype=torch.bool))


def test_a_float_mask_is_refused() -> None:
    student, teacher, mask = random_case()
    with pytest.raises(ValueError, match="mask must be bool"):
        group_relative(student, teacher, mask=mask.double())


@pytest.mark.parametrize("shape", [(5, 6), (1, 7), (7,)])
def test_shapes_that_differ_are_refused(shape: tuple[int, ...]) -> None:
    student, _, _ = random_case()
    with pytest.raises((ValueError, TypeCheckError)):
        group_relative(student, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_tau_must_be_above_0(tau: float) -> None:
    student, teacher, _ = random_case()
    with pytest.raises(UserError, match="tau"):
        group_relative(student, teacher, tau=tau)


@pytest.mark.parametrize("option", ["pair_target", "normalize"])
def test_an_unknown_option_value_is_refused(option: str) -> None:
    student, teacher, _ = random_case()
    with pytest.raises((UserError, TypeCheckError), match="medium"):
        group_relative(student, teacher, **{option: "medium"})
