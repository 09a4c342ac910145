"""GRKDLoss, the module for anyone's own training loop."""

import inspect
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd import GRKDLoss, losses
from grkd.errors import UserError
from grkd.objectives import Batch, combine, load
from grkd.objectives.parts import Pairs


def logits(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, 2 * teacher


def gradient_of(loss: Tensor, leaf: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def test_is_the_method() -> None:
    student, teacher = logits(6, 10)
    labels = torch.arange(6)
    options: dict[str, Any] = {"pairs.tau": 0.5, "label_weight": 0.2, "pairs.group": "top", "pairs.group_size": 4}
    found = GRKDLoss(**options)(student, teacher, progress=0.3, labels=labels)
    batch = Batch(student=student, teacher=teacher, labels=labels, progress=0.3)
    assert torch.equal(found, combine(load("grkd", **options).terms(batch)))


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_is_the_paper_by_default(progress: float) -> None:
    student, teacher = logits(6, 10)
    relative, soft = losses.group_relative(student, teacher).mean(), losses.soft_target(student, teacher).mean()
    found = GRKDLoss()(student, teacher, progress=progress)
    torch.testing.assert_close(found, progress * relative + (1 - progress) * soft)


def test_masked_positions_equal_the_selected_rows() -> None:
    student, teacher = logits(3, 4, 10)
    labels = torch.randint(10, (3, 4), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(2)) < 0.6
    assert 1 < mask.sum() < 11
    module = GRKDLoss(label_weight=0.3)
    student.requires_grad_()
    found = module(student, teacher, progress=0.4, mask=mask, labels=labels)
    selected = module(student[mask], teacher[mask], progress=0.4, labels=labels[mask])
    torch.testing.assert_close(found, selected)
    gradient = gradient_of(found, student)
    torch.testing.assert_close(gradient, gradient_of(selected, student))
    assert (gradient[~mask] == 0).all()


def test_a_mask_of_candidates_equals_that_of_the_method() -> None:
    student, teacher = logits(2, 3, 10)
    mask = torch.rand(2, 3, 10, generator=torch.Generator().manual_seed(2)) < 0.7
    batch = Batch(
        student=student.reshape(6, 10), teacher=teacher.reshape(6, 10), mask=mask.reshape(6, 10), progress=0.4
    )
    assert torch.equal(GRKDLoss()(student, teacher, progress=0.4, mask=mask), combine(load("grkd").terms(batch)))


def test_an_attention_mask_of_integers_works() -> None:
    student, teacher = logits(2, 3, 10)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    module = GRKDLoss()
    assert torch.equal(
        module(student, teacher, progress=0.5, mask=mask), module(student, teacher, progress=0.5, mask=mask.bool())
    )


def test_rows_labelled_minus_100_are_left_out_of_the_label_term_only() -> None:
    student, teacher = logits(4, 10)
    labels = torch.tensor([3, -100, 1, -100])
    found = GRKDLoss(label_weight=0.5)(student, teacher, progress=0.5, labels=labels)
    expected = GRKDLoss()(student, teacher, progress=0.5) + 0.5 * torch.nn.functional.cross_entropy(student, labels)
    torch.testing.assert_close(found, expected)


def test_rows_without_a_pair_do_not_count_in_the_pairs_mean() -> None:
    student, teacher = logits(5, 6)
    teacher[[1, 3]] = 0.25
    student.requires_grad_()
    module = GRKDLoss()
    found = module(student, teacher, progress=1.0)
    torch.testing.assert_close(found, module(student[[0, 2, 4]], teacher[[0, 2, 4]], progress=1.0))
    assert (gradient_of(found, student)[[1, 3]] == 0).all()


def test_sampled_groups_repeat_with_the_seed() -> None:
    student, teacher = logits(5, 40)
    pairs = [Pairs(group="sample", group_size=4)]

    def run(seed: int | None) -> list[float]:
        module = GRKDLoss(seed=seed, ranking=pairs)
        return [module(student, teacher, progress=1.0).item() for _ in range(3)]

    first = run(1)
    torch.manual_seed(123)  # the global state must not matter
    assert run(1) == first
    assert run(2) != first
    assert len(set(first)) == 3, "each call draws a new group"


def test_without_a_seed_the_global_state_draws() -> None:
    student, teacher = logits(5, 40)
    module = GRKDLoss(ranking=[Pairs(group="sample", group_size=4)])
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(module(student, teacher, progress=1.0).item())
    assert found[0] == found[1] != found[2]


def test_trains_a_student_to_the_teachers_order() -> None:
    _, teacher = logits(8, 6)
    student = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    optimiser, module = torch.optim.Adam([student], lr=0.1), GRKDLoss()
    for step in range(60):
        optimiser.zero_grad()
        module(student, teacher, progress=step / 59).backward()
        optimiser.step()
    assert torch.equal(student.detach().argsort(-1), teacher.argsort(-1))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError)):
        GRKDLoss()(torch.zeros(2, 5), torch.zeros(2, 6), progress=0.0)
    with pytest.raises((ValueError, TypeCheckError)):
        GRKDLoss()(torch.zeros(2, 3, 5), torch.zeros(6, 5), progress=0.0)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 3), (3, 2), (6,), (2, 3, 1), (1, 1, 5), (6, 5)])
def test_a_mask_never_broadcasts(shape: tuple[int, ...]) -> None:
    student, teacher = logits(2, 3, 5)
    with pytest.raises(ValueError, match=r"mask has shape .* \(2, 3, 5\), or of their rows, \(2, 3\)"):
        GRKDLoss()(student, teacher, progress=0.0, mask=torch.ones(shape, dtype=torch.bool))


def test_a_float_mask_is_refused() -> None:
    student, teacher = logits(2, 3, 5)
    with pytest.raises(ValueError, match="mask must be bool"):
        GRKDLoss()(student, teacher, progress=0.0, mask=torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(1,), (3,), (3, 2), (6,), (2, 1), (2, 3, 1)])
def test_labels_never_broadcast_and_are_not_reordered(shape: tuple[int, ...]) -> None:
    student, teacher = logits(2, 3, 5)
    with pytest.raises(ValueError, match=r"labels have shape .* \(2, 3\)"):
        GRKDLoss(label_weight=1.0)(student, teacher, progress=0.0, labels=torch.zeros(shape, dtype=torch.int64))


def test_progress_outside_is_refused() -> None:
    student, teacher = logits(2, 5)
    with pytest.raises(ValueError, match="progress"):
        GRKDLoss()(student, teacher, progress=1.5)


def test_a_bad_option_is_a_user_error_and_the_options_show() -> None:
    for options, said in (
        ({"temprature": 2}, r"GRKDLoss: unknown option 'temprature' \(did you mean 'pairs.temperature'\?\)"),
        ({"tau": 0.5}, r"GRKDLoss: unknown option 'tau' \(did you mean 'pairs.tau'\?\)"),
        ({"pairs.tau": "1"}, "GRKDLoss: pairs.tau must be a finite number, got '1'"),
        ({"pairs.tau": 0.0}, "pairs: tau must be above 0, got 0.0"),
        ({"preset": "clases"}, "GRKDLoss: preset must be one of paper"),
    ):
        with pytest.raises(UserError, match=said):
            GRKDLoss(**options)
    assert "tau=0.5" in repr(GRKDLoss(ranking=[Pairs(tau=0.5)]))


def test_parts_that_are_no_list_are_a_user_error() -> None:
    """Without the types that these tests check at every call, as users run it."""
    with pytest.raises(UserError, match="GRKDLoss: ranking: expected a list of parts"):
        inspect.unwrap(GRKDLoss.__init__)(object.__new__(GRKDLoss), ranking=3)
