"""Relations of a batch against pairs and triplets spelt out in plain Python."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from grkd.losses import _relational, relational_angle, relational_distance

LOSSES = {"distance": relational_distance, "angle": relational_angle}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Loss = Callable[..., Tensor]


def case(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Features of different widths, and one row that does not count."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (3, 5))
    counted = torch.ones(rows, dtype=torch.bool)
    counted[1] = False
    return student, 4 * teacher, counted


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def relations(points: list[list[float]]) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int, int], float]]:
    """Distances over their mean, and cosines of angles at the middle index."""
    n = range(len(points))
    distances = {(i, j): math.dist(points[i], points[j]) for i, j in product(n, n) if i != j}
    mean = sum(distances.values()) / len(distances)
    angles = {}
    for i, j, k in product(n, n, n):
        if len({i, j, k}) == 3:
            one, other = ([a - b for a, b in zip(points[x], points[j], strict=True)] for x in (i, k))
            dot = sum(a * b for a, b in zip(one, other, strict=True))
            angles[i, j, k] = dot / (math.hypot(*one) * math.hypot(*other))
    return {pair: distance / mean for pair, distance in distances.items()}, angles


def test_equals_plain_loops() -> None:
    student, teacher, counted = case()
    kept = torch.nonzero(counted).flatten()
    own, others = relations(student[kept].tolist()), relations(teacher[kept].tolist())
    for loss, mine, theirs, axis in (
        (relational_distance, own[0], others[0], 0),
        (relational_angle, own[1], others[1], 1),
    ):
        found = loss(student, teacher, counted=counted)
        assert found[1] == 0
        for place, row in enumerate(kept.tolist()):
            values = [huber(mine[key] - theirs[key]) for key in mine if key[axis] == place]
            assert found[row].item() == pytest.approx(sum(values) / len(values), rel=1e-10)
        # As the paper has it: one mean over all pairs, or triplets.
        whole = [huber(mine[key] - theirs[key]) for key in mine]
        assert found[kept].mean().item() == pytest.approx(sum(whole) / len(whole), rel=1e-10)


@both
def test_gradcheck(loss: Loss) -> None:
    student, teacher, counted = case()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, counted=counted), student.requires_grad_())


@both
def test_moving_turning_and_scaling_a_side_changes_nothing(loss: Loss) -> None:
    student, teacher, counted = case()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    moved = loss(7 * student @ turn + 2, 0.1 * teacher - 3, counted=counted)
    torch.testing.assert_close(moved, loss(student, teacher, counted=counted))
    assert loss(3 * teacher, teacher, counted=counted).abs().max() < 1e-14


@both
def test_rows_that_do_not_count_reach_nothing(loss: Loss) -> None:
    student, teacher, counted = case()
    junk = torch.where(counted.unsqueeze(-1), student, math.nan).requires_grad_()
    found = loss(junk, torch.where(counted.unsqueeze(-1), teacher, math.inf), counted=counted)
    torch.testing.assert_close(found[counted], loss(student[counted], teacher[counted], counted=counted[counted]))
    found.sum().backward()
    assert junk.grad is not None
    assert junk.grad.isfinite().all()
    assert (junk.grad[1] == 0).all()


@both
def test_equal_rows_and_too_few_rows_are_finite(loss: Loss) -> None:
    same = torch.ones(4, 3, requires_grad=True)
    found = loss(same, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), counted=torch.ones(4) > 0)
    found.sum().backward()
    assert found.isfinite().all()
    assert same.grad is not None
    assert same.grad.isfinite().all()
    student, teacher, _ = case()
    for few in (0, 1):
        assert (loss(student, teacher, counted=torch.arange(6) < few) == 0).all()
    assert loss(student[:0], teacher[:0], counted=torch.zeros(0, dtype=torch.bool)).shape == (0,)


def test_angles_at_two_equal_points_have_cosine_zero_and_a_gradient_of_ordinary_size() -> None:
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = relational_angle(student, teacher, counted=torch.ones(4, dtype=torch.bool))
    _, theirs = relations(teacher.tolist())
    # At row 0 row 1 has no direction, and rows 2 and 3 are at a right angle: every cosine is 0.
    expected = [huber(angle) for (_, at, _), angle in theirs.items() if at == 0]
    assert found[0].item() == pytest.approx(sum(expected) / len(expected), rel=1e-10)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.abs().max() < 10


def test_blocks_of_vertices_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, counted = case()
    results = []
    for block in (1 << 26, 1, 80):
        monkeypatch.setattr(_relational, "_BLOCK", block)
        leaf = student.clone().requires_grad_()
        found = relational_angle(leaf, teacher, counted=counted)
        found.sum().backward()
        results.append((found.detach(), leaf.grad))
    for found, gradient in results[1:]:
        torch.testing.assert_close(found, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


@both
def test_bf16_in_float32_math_and_no_gradient_to_the_teacher(loss: Loss) -> None:
    student, teacher, counted = case()
    half = student.bfloat16().requires_grad_()
    teacher.requires_grad_()
    found = loss(half, teacher, counted=counted)
    found.sum().backward()
    assert teacher.grad is None
    assert half.grad is not None
    torch.testing.assert_close(found, loss(half.double(), teacher, counted=counted), check_dtype=False)
