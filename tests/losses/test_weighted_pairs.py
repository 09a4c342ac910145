"""Weighted pairs and margins against pairs spelt out in plain Python, their limits and their properties."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.losses import _weighted_pairs, at_once, group_relative, pair_margins, rank_discount, weighted_pairs

FORMS = [(target, normalize) for target in ("hard", "soft", "margin") for normalize in ("pairs", "candidates")]
all_forms = pytest.mark.parametrize(("pair_target", "normalize"), FORMS)
each_weight = pytest.mark.parametrize("weighted", [True, False])


def case(rows: int = 5, candidates: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, teacher (with ties), importance, mask; float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher, importance = (
        torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    mask = torch.rand(rows, candidates, generator=generator) < 0.8
    mask[2] = False
    return student, (2 * teacher).round(decimals=0), importance, mask


def pairs_loss(
    student: Tensor, teacher: Tensor, *, importance: Tensor | None = None, pair_target: str = "hard", **options: Any
) -> Tensor:
    """The function that computes these pairs: with weights, margins of all pairs alike, or all pairs alike."""
    if importance is not None:
        return weighted_pairs(student, teacher, importance=importance, pair_target=pair_target, **options)
    if pair_target == "margin":
        return pair_margins(student, teacher, **options)
    return group_relative(student, teacher, pair_target=pair_target, **options)


def by_hand(
    s: list[float], t: list[float], v: list[float] | None, tau: float, pair_target: str, normalize: str
) -> float:
    """One row's loss over its unmasked candidates, pair by pair."""
    total, weights = 0.0, 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            tie = t[i] == t[j] and i < j and pair_target == "margin" and v is None
            if not (t[i] > t[j] or tie):
                continue
            weight = 1.0 if v is None else abs(v[i] - v[j])
            gap, teacher_gap = (s[i] - s[j]) / tau, (t[i] - t[j]) / tau
            q = 1.0 if pair_target == "hard" else 1 / (1 + math.exp(-teacher_gap))
            loss = q * math.log1p(math.exp(-gap)) + (1 - q) * math.log1p(math.exp(gap))
            if pair_target == "margin":
                loss = (gap - teacher_gap) ** 2 / 8
            total += weight * loss
            weights += weight
    divisor = weights if normalize == "pairs" else len(s)
    return total / divisor if divisor else 0.0


def loss_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    rows = loss(leaf)
    rows.sum().backward()
    assert leaf.grad is not None
    return rows.detach(), leaf.grad


@all_forms
@each_weight
@pytest.mark.parametrize("tau", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_plain_loops(tau: float, seed: int, weighted: bool, pair_target: str, normalize: str) -> None:
    student, teacher, importance, mask = case(seed=seed)
    given = importance if weighted else None
    found = pairs_loss(
        student, teacher, importance=given, mask=mask, tau=tau, pair_target=pair_target, normalize=normalize
    )
    expected = [
        by_hand(s[m].tolist(), t[m].tolist(), v[m].tolist() if weighted else None, tau, pair_target, normalize)
        for s, t, v, m in zip(student, teacher, importance, mask, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@all_forms
@each_weight
def test_gradcheck(weighted: bool, pair_target: str, normalize: str) -> None:
    student, teacher, importance, mask = case()
    given = importance if weighted else None

    def loss(scores: Tensor) -> Tensor:
        return pairs_loss(
            scores, teacher, importance=given, mask=mask, tau=0.7, pair_target=pair_target, normalize=normalize
        )

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
@each_weight
def test_margins_are_the_limit_of_soft_pairs(weighted: bool, normalize: str) -> None:
    """tau^2 (L(s) - L(t)) of soft pairs tends to the margins' loss at tau 1, and its gradient too, as 1 / tau^2."""
    student, _, importance, mask = case()
    teacher = torch.randn(5, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)  # no ties
    options = {"importance": importance if weighted else None, "mask": mask, "normalize": normalize}
    limit, slope = loss_and_gradient(lambda s: pairs_loss(s, teacher, pair_target="margin", **options), student)

    def scaled(s: Tensor, tau: float) -> Tensor:
        own, least = (pairs_loss(x, teacher, tau=tau, pair_target="soft", **options) for x in (s, teacher))
        return tau**2 * (own - least)

    errors = []
    for tau in (30.0, 300.0):
        found, gradient = loss_and_gradient(lambda s, tau=tau: scaled(s, tau), student)
        errors.append([(found - limit).abs().max().item(), (gradient - slope).abs().max().item()])
    assert limit.max() > 0.1
    assert max(errors[0]) < 1e-2
    assert max(errors[1]) < 1e-4


def test_margins_have_their_minimum_at_the_teacher_and_weigh_all_pairs_in_linear_time() -> None:
    _, teacher, _, mask = case()
    least, gradient = loss_and_gradient(lambda s: pairs_loss(s, teacher, mask=mask, pair_target="margin"), teacher + 3)
    assert least.abs().max() < 1e-14
    assert gradient.abs().max() < 1e-14
    many = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))  # pairs of it fill no memory
    assert pairs_loss(many, torch.zeros_like(many), pair_target="margin").tolist() == pytest.approx(
        [2 * row.var().item() / 8 for row in many], rel=1e-4
    )


@all_forms
@each_weight
def test_shifts_of_a_row_change_nothing_and_candidates_may_be_permuted(
    weighted: bool, pair_target: str, normalize: str
) -> None:
    student, teacher, importance, mask = case()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    shift = torch.arange(5, dtype=torch.float64).unsqueeze(-1)
    options = {"tau": 0.7, "pair_target": pair_target, "normalize": normalize}

    def loss(s: Tensor, t: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return pairs_loss(s, t, importance=v if weighted else None, mask=m, **options)

    plain = loss(student, teacher, importance, mask)
    torch.testing.assert_close(loss(student + shift, teacher - 2 * shift, importance + 1, mask), plain)
    moved = loss(student[:, order], teacher[:, order], importance[:, order], mask[:, order])
    torch.testing.assert_close(moved, plain)


@all_forms
@each_weight
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_nothing_masked_reaches_value_or_gradient(
    junk: float, weighted: bool, pair_target: str, normalize: str
) -> None:
    student, teacher, importance, mask = case()

    def run(s: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        options = {"mask": mask, "pair_target": pair_target, "normalize": normalize}
        return loss_and_gradient(lambda x: pairs_loss(x, t, importance=v if weighted else None, **options), s)

    clean, clean_gradient = run(student, teacher, importance)
    dirty, gradient = run(*(scores.masked_fill(~mask, junk) for scores in (student, teacher, importance)))
    assert torch.equal(dirty, clean)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("pair_target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("tile", [1, 20, 100, 160])
def test_tiles_equal_dense(monkeypatch: pytest.MonkeyPatch, tile: int, pair_target: str) -> None:
    student, teacher, importance, mask = case()

    def loss(scores: Tensor) -> Tensor:
        return pairs_loss(scores, teacher, importance=importance, mask=mask, tau=0.6, pair_target=pair_target)

    dense, dense_gradient = loss_and_gradient(loss, student)
    tiles, whole = [], at_once.sums_of_pairs

    def counted(scores: Tensor, sums: at_once.Tile, **options: Any) -> Any:
        return whole(scores, lambda *place: tiles.append(0) or sums(*place), **options)

    monkeypatch.setattr(_weighted_pairs, "sums_of_pairs", counted)
    monkeypatch.setattr(at_once, "_ENTRIES_CPU", tile)
    tiled, tiled_gradient = loss_and_gradient(loss, student)
    assert len(tiles) > 1, "the tiled path was not taken"
    torch.testing.assert_close(tiled, dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tiled_gradient, dense_gradient, rtol=1e-12, atol=1e-12)


@all_forms
@each_weight
def test_bf16_scores_are_computed_in_float32_and_large_ones_stay_finite(
    weighted: bool, pair_target: str, normalize: str
) -> None:
    student, teacher, importance, mask = case()
    options = {"mask": mask, "pair_target": pair_target, "normalize": normalize}
    options["importance"] = importance.float() if weighted else None
    half = student.bfloat16(), teacher.bfloat16()
    found, gradient = loss_and_gradient(lambda s: pairs_loss(s, half[1], **options), half[0])
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(found, pairs_loss(half[0].float(), half[1].float(), **options))
    found, gradient = loss_and_gradient(lambda s: pairs_loss(s, 1e4 * half[1], **options), 1e4 * half[0])
    assert found.isfinite().all()
    assert gradient.isfinite().all()


def test_neither_teacher_nor_importance_gets_a_gradient() -> None:
    student, teacher, importance, _ = (x.requires_grad_() if x.is_floating_point() else x for x in case())
    for given in (importance, None):
        for target in ("hard", "margin"):
            pairs_loss(student, teacher, importance=given, pair_target=target).sum().backward()
    assert teacher.grad is importance.grad is None


def test_ranks_are_discounted() -> None:
    teacher = torch.tensor([[3.0, 9.0, 3.0, 1.0, 5.0]])
    expected = [1 / math.log2(1 + rank) for rank in (3, 1, 3, 5, 2)]
    assert rank_discount(teacher).tolist()[0] == pytest.approx(expected)
    mask = torch.tensor([[True, False, True, True, True]])
    expected = [1 / math.log2(1 + rank) if rank else 0.0 for rank in (2, 0, 2, 4, 1)]
    assert rank_discount(teacher, mask=mask).tolist()[0] == pytest.approx(expected)
    assert (rank_discount(teacher, mask=torch.zeros(1, 5, dtype=torch.bool)) == 0).all()


def test_leading_axes_are_rows_and_no_rows_give_no_losses() -> None:
    student, teacher, importance, _ = case(rows=6)
    shaped = [scores.reshape(2, 3, 7) for scores in (student, teacher, importance)]
    found = weighted_pairs(shaped[0], shaped[1], importance=shaped[2])
    assert torch.equal(found, weighted_pairs(student, teacher, importance=importance).reshape(2, 3))
    assert weighted_pairs(torch.zeros(0, 4), torch.zeros(0, 4), importance=torch.zeros(0, 4)).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    student, teacher, importance, _ = case()
    with pytest.raises((ValueError, TypeCheckError)):
        weighted_pairs(student, teacher[:, :6], importance=importance[:, :6])
    with pytest.raises((ValueError, TypeCheckError)):
        weighted_pairs(student, teacher, importance=importance[:1])
    with pytest.raises((ValueError, TypeCheckError)):
        weighted_pairs(student, teacher, importance=importance, mask=torch.ones(1, 7, dtype=torch.bool))
    for options in ({"tau": 0.0}, {"pair_target": "medium"}, {"normalize": "rows"}):
        with pytest.raises((UserError, TypeCheckError), match=next(iter(options))):
            weighted_pairs(student, teacher, importance=importance, **options)
    for options in ({"tau": 0.0}, {"normalize": "rows"}):
        with pytest.raises((UserError, TypeCheckError), match=next(iter(options))):
            pair_margins(student, teacher, **options)
