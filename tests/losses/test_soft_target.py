"""Soft targets and forward KL against torch's own losses and plain Python, and their properties."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from grkd.errors import UserError
from grkd.losses import decoupled_kl, forward_kl, generalized_jsd, group_relative, soft_target

LOSSES = {"soft_target": soft_target, "forward_kl": forward_kl}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Loss = Callable[..., Tensor]


def scores(rows: int = 5, candidates: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(rows, candidates, generator=generator) < 0.7
    mask[:, 2] = True
    return student, teacher, mask


def by_hand(s: list[float], t: list[float], temperature: float) -> tuple[float, float]:
    """Cross-entropy and KL of one row, in plain Python."""

    def log_probs(values: list[float]) -> list[float]:
        top = max(values) / temperature
        normaliser = top + math.log(math.fsum(math.exp(value / temperature - top) for value in values))
        return [value / temperature - normaliser for value in values]

    p, q = log_probs(t), log_probs(s)
    entropy = -math.fsum(math.exp(a) * a for a in p)
    soft = -math.fsum(math.exp(a) * b for a, b in zip(p, q, strict=True))
    return soft, soft - entropy


def loss_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    rows = loss(leaf)
    rows.sum().backward()
    assert leaf.grad is not None
    return rows.detach(), leaf.grad


@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_masked_rows_equal_plain_python_on_the_subset(seed: int, temperature: float) -> None:
    student, teacher, mask = scores(seed=seed)
    soft = soft_target(student, teacher, mask=mask, temperature=temperature)
    kl = forward_kl(student, teacher, mask=mask, temperature=temperature)
    for row, exists in enumerate(mask):
        expected = by_hand(student[row, exists].tolist(), teacher[row, exists].tolist(), temperature)
        assert (soft[row].item(), kl[row].item()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torch(temperature: float) -> None:
    student, teacher, _ = scores()
    targets = (teacher / temperature).softmax(-1)
    soft = cross_entropy(student / temperature, targets, reduction="none")
    kl = kl_div((student / temperature).log_softmax(-1), targets, reduction="none").sum(-1)
    torch.testing.assert_close(soft_target(student, teacher, temperature=temperature), soft)
    torch.testing.assert_close(forward_kl(student, teacher, temperature=temperature), kl)


def test_t_squared_only_where_asked() -> None:
    student, teacher, _ = scores()
    plain = soft_target(student, teacher, temperature=3.0)
    squared = soft_target(student, teacher, temperature=3.0, t_squared=True)
    torch.testing.assert_close(squared, 9 * plain)
    assert torch.equal(soft_target(student, teacher, t_squared=True), soft_target(student, teacher))


@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_kl_is_not_negative_and_zero_at_the_teacher(seed: int, temperature: float) -> None:
    student, teacher, mask = scores(seed=seed)
    assert (forward_kl(student, teacher, mask=mask, temperature=temperature) >= -1e-14).all()
    same, gradient = loss_and_gradient(
        lambda s: forward_kl(s, teacher, mask=mask, temperature=temperature), teacher + 0.5
    )
    assert same.abs().max() < 1e-13
    assert gradient.abs().max() < 1e-13


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_is_cross_entropy_less_the_teachers_entropy(temperature: float) -> None:
    student, teacher, mask = scores()
    options = {"mask": mask, "temperature": temperature}
    soft, soft_gradient = loss_and_gradient(lambda s: soft_target(s, teacher, **options), student)
    kl, kl_gradient = loss_and_gradient(lambda s: forward_kl(s, teacher, **options), student)
    torch.testing.assert_close(kl, soft - soft_target(teacher, teacher, **options))
    torch.testing.assert_close(kl_gradient, soft_gradient)


@both
@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_gradcheck(loss: Loss, temperature: float) -> None:
    student, teacher, mask = scores()
    assert torch.autograd.gradcheck(
        lambda s: loss(s, teacher, mask=mask, temperature=temperature), student.requires_grad_()
    )


@both
@given(seed=st.integers(0, 10_000), student_shift=st.floats(-50, 50), teacher_shift=st.floats(-50, 50))
def test_shifts_of_either_side_change_nothing(
    loss: Loss, seed: int, student_shift: float, teacher_shift: float
) -> None:
    student, teacher, mask = scores(seed=seed)
    plain = loss(student, teacher, mask=mask)
    shifted = loss(student + student_shift, teacher + teacher_shift, mask=mask)
    torch.testing.assert_close(shifted, plain, rtol=1e-10, atol=1e-10)


@both
@given(seed=st.integers(0, 10_000))
def test_candidates_may_be_permuted(loss: Loss, seed: int) -> None:
    student, teacher, mask = scores(seed=seed)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    plain, gradient = loss_and_gradient(lambda s: loss(s, teacher, mask=mask), student)
    moved, moved_gradient = loss_and_gradient(
        lambda s: loss(s, teacher[:, order], mask=mask[:, order]), student[:, order]
    )
    torch.testing.assert_close(moved, plain)
    torch.testing.assert_close(moved_gradient, gradient[:, order])


@both
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_nothing_masked_reaches_value_or_gradient(loss: Loss, junk: float) -> None:
    student, teacher, mask = scores()
    clean, clean_gradient = loss_and_gradient(lambda s: loss(s, teacher, mask=mask), student)
    dirty_teacher = teacher.masked_fill(~mask, junk)
    dirty, gradient = loss_and_gradient(lambda s: loss(s, dirty_teacher, mask=mask), student.masked_fill(~mask, junk))
    assert torch.equal(dirty, clean)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~mask] == 0).all()


@both
def test_a_row_masked_whole_gives_zero_and_no_gradient(loss: Loss) -> None:
    student, teacher, mask = scores()
    mask[1] = False
    found, gradient = loss_and_gradient(lambda s: loss(s, teacher, mask=mask), student)
    assert found[1] == 0
    assert (gradient[1] == 0).all()
    assert (gradient[0][mask[0]] != 0).all()


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_finite_at_large_scores(loss: Loss, dtype: torch.dtype, masked: bool) -> None:
    student = 1e4 * torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]).to(dtype)
    teacher = 1e4 * torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 0.5, -0.5]]).to(dtype)
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]]) if masked else None
    found, gradient = loss_and_gradient(lambda s: loss(s, teacher, mask=mask), student)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@both
def test_bf16_scores_are_computed_in_float32(loss: Loss) -> None:
    student, teacher, mask = scores()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    found, gradient = loss_and_gradient(lambda s: loss(s, teacher, mask=mask), student)
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.double(), loss(student.double(), teacher.double(), mask=mask), rtol=1e-5, atol=1e-5
    )


@both
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    student, teacher, _ = scores()
    loss(student.requires_grad_(), teacher.requires_grad_()).sum().backward()
    assert teacher.grad is None


@both
def test_leading_axes_are_rows(loss: Loss) -> None:
    student, teacher, mask = scores(rows=6)
    found = loss(student.reshape(2, 3, 7), teacher.reshape(2, 3, 7), mask=mask.reshape(2, 3, 7))
    torch.testing.assert_close(found, loss(student, teacher, mask=mask).reshape(2, 3))


@both
@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 1), (5,), (5, 7, 1)])
def test_a_mask_never_broadcasts(loss: Loss, shape: tuple[int, ...]) -> None:
    student, teacher, _ = scores()
    with pytest.raises(ValueError, match="mask has shape"):
        loss(student, teacher, mask=torch.ones(shape, dtype=torch.bool))


@both
def test_a_float_mask_is_refused(loss: Loss) -> None:
    student, teacher, mask = scores()
    with pytest.raises(ValueError, match="mask must be bool"):
        loss(student, teacher, mask=mask.double())


@both
@pytest.mark.parametrize("shape", [(5, 6), (1, 7), (7,)])
def test_shapes_that_differ_are_refused(loss: Loss, shape: tuple[int, ...]) -> None:
    student, _, _ = scores()
    with pytest.raises((ValueError, TypeCheckError)):
        loss(student, torch.zeros(shape, dtype=torch.float64))


@both
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_above_0(loss: Loss, temperature: float) -> None:
    student, teacher, _ = scores()
    with pytest.raises(UserError, match="temperature"):
        loss(student, teacher, temperature=temperature)


def test_a_teachers_probability_of_zero_counts_nothing() -> None:
    """As if its candidate were one of probability e^-200; pairs too."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 1, 3])
    ruled_out = torch.zeros(3, 6, dtype=torch.bool)
    ruled_out[:, 4:] = True
    losses = {
        "forward_kl": lambda s, t: forward_kl(s, t),
        "jsd": lambda s, t: generalized_jsd(s, t, beta=0.3),
        "forward": lambda s, t: generalized_jsd(s, t, beta=0.0),
        "target": lambda s, t: decoupled_kl(s, t, labels)[0],
        "others": lambda s, t: decoupled_kl(s, t, labels)[1],
        "soft_pairs": lambda s, t: group_relative(s, t, pair_target="soft"),
    }
    for name, loss in losses.items():
        found, gradient = loss_and_gradient(
            lambda s, loss=loss: loss(s, teacher.masked_fill(ruled_out, -torch.inf)), student
        )
        near = teacher.clone()
        near[:, 4:] = torch.tensor([-200.0, -200.0])
        expected, wanted = loss_and_gradient(lambda s, near=near, loss=loss: loss(s, near), student)
        torch.testing.assert_close(found, expected, msg=name)
        torch.testing.assert_close(gradient, wanted, msg=name)
