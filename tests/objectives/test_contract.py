"""What every method in grkd.objectives promises. A new method is found by its file and runs through all of this.

Tables at the top say what cannot be derived: option sets beyond the defaults, options that matter only together with
others, methods whose minimum is not at the teacher.

Over 300 lines: the whole contract in one place, so that a new method meets all of it.
"""

import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, Term, combine

OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "grkd": {
        "default": {},
        "soft pairs": {"pair_target": "soft", "tau": 0.5},
        "top": {"group": "top", "group_size": 4, "alpha_shape": "cosine", "temperature": 2.0, "t_squared": True},
        "sample": {"group": "sample", "group_size": 4, "normalize": "candidates", "label_weight": 0.5},
    },
    "kd": {"default": {}, "labels": {"temperature": 1.0, "label_weight": 0.5}},
}

# Options that do something only together with others: (method, option) -> the others.
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("grkd", "group"): {"group": "top", "group_size": 4},  # from "auto", which is always one of the other three
    ("grkd", "group_size"): {"group": "top", "group_size": 4},
    ("grkd", "group_temperature"): {"group": "sample", "group_size": 4},
    ("grkd", "t_squared"): {"temperature": 2.0},
}

# Methods that are not at their minimum where the student equals the teacher, and why.
NO_IDENTITY = {
    ("grkd", "default"): "hard pairs push every margin towards infinity",
    ("grkd", "top"): "hard pairs push every margin towards infinity",
    ("grkd", "sample"): "hard pairs, and labels that are not the teacher's",
    ("kd", "labels"): "labels are not the teacher's",
    ("none", "default"): "labels are not the teacher's",
}

# Draws that do not depend on how the rows are batched: at this temperature the sample is the top.
DETERMINISTIC = {"grkd": {"group_temperature": 1e-7}}

METHODS = objectives.names()
CASES = [(name, case) for name in METHODS for case in OPTION_SETS.get(name, {"default": {}})]
each_method = pytest.mark.parametrize("name", METHODS)
each_case = pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case}" for name, case in CASES])


def load(name: str, case: str, **changed: Any) -> objectives.Objective:
    return objectives.load(name, **{**OPTION_SETS.get(name, {}).get(case, {}), **changed})


def a_batch(rows: int = 8, candidates: int = 9, *, masked: bool = False, seed: int = 0) -> Batch:
    """Float64 scores; with `masked`, some candidates and one whole row are missing."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher, order = (
        torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    mask = None
    if masked:
        mask = torch.rand(rows, candidates, generator=generator) < 0.7
        mask[:, 3] = mask[:, 5] = True
        mask[1] = False
        order = order.masked_fill(~mask, -torch.inf)
    return Batch(student=student, teacher=2 * teacher, mask=mask, labels=order.argmax(-1), progress=0.3)


def take(batch: Batch, rows: Any) -> Batch:
    """Some of the rows, as a batch."""
    assert batch.teacher is not None
    assert batch.labels is not None
    return replace(
        batch,
        student=batch.student[rows],
        teacher=batch.teacher[rows],
        mask=None if batch.mask is None else batch.mask[rows],
        labels=batch.labels[rows],
    )


def loss_and_gradient(
    objective: objectives.Objective, batch: Batch, *, rows: int | None = None, term: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss and the student's gradient; groups are drawn from the same seed every time."""
    student = batch.student.detach().clone().requires_grad_()
    terms = objective.terms(replace(batch, student=student, generator=torch.Generator().manual_seed(7)))
    loss = combine(terms if term is None else [terms[term]], rows=rows)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def test_combine_by_hand() -> None:
    # Row 1 of the first term and row 0 of the second do not count, whatever stands there.
    first = Term(
        name="a", weight=2.0, rows=torch.tensor([1.0, math.nan, 3.0]), counted=torch.tensor([True, False, True])
    )
    second = Term(name="b", weight=0.5, rows=torch.tensor([9.0, 4.0, 4.0]), counted=torch.tensor([False, True, True]))
    assert first.total() == 4
    assert combine([first, second]) == 2 * 4 / 2 + 0.5 * 8 / 2
    assert combine([first, second], rows=4) == 2 * 4 / 4 + 0.5 * 8 / 4
    assert combine([first, second], rows=torch.tensor(4.0)) == combine([first, second], rows=4)
    nothing = Term(name="a", weight=1.0, rows=torch.tensor([math.nan]), counted=torch.tensor([False]))
    assert combine([nothing]) == 0


def test_the_tables_speak_of_methods_that_exist() -> None:
    assert set(OPTION_SETS) | set(DETERMINISTIC) <= set(METHODS)
    assert set(NO_IDENTITY) <= set(CASES)
    assert all(option in {field.name for field in fields(objectives.method(name))} for name, option in TOGETHER)


@each_case
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_positions_get_no_gradient(name: str, case: str, junk: float) -> None:
    batch = a_batch(masked=True)
    assert batch.mask is not None
    assert batch.teacher is not None
    clean, clean_gradient = loss_and_gradient(load(name, case), batch)
    dirty = replace(
        batch,
        student=batch.student.masked_fill(~batch.mask, junk),
        teacher=batch.teacher.masked_fill(~batch.mask, junk),
    )
    loss, gradient = loss_and_gradient(load(name, case), dirty)
    assert (gradient[~batch.mask] == 0).all()
    assert gradient[batch.mask].abs().sum() > 0
    assert torch.equal(loss, clean)
    assert torch.equal(gradient, clean_gradient)


@each_case
def test_a_row_masked_whole_counts_nowhere(name: str, case: str) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    batch = a_batch(masked=True)
    loss, gradient = loss_and_gradient(objective, batch)
    kept = [row for row in range(8) if row != 1]
    expected, expected_gradient = loss_and_gradient(objective, take(batch, kept))
    close(loss, expected)
    close(gradient[kept], expected_gradient)


@each_case
def test_nothing_to_count_gives_zero(name: str, case: str) -> None:
    batch = replace(a_batch(), mask=torch.zeros(8, 9, dtype=torch.bool))
    loss, gradient = loss_and_gradient(load(name, case), batch)
    assert loss == 0
    assert (gradient == 0).all()


@each_case
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_batch_is_the_mean_of_its_parts(name: str, case: str, masked: bool, parts: int) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    batch = a_batch(masked=masked)
    whole, whole_gradient = loss_and_gradient(objective, batch, rows=8)
    split = [loss_and_gradient(objective, take(batch, part), rows=8) for part in torch.arange(8).chunk(parts)]
    close(torch.stack([loss for loss, _ in split]).sum(), whole)
    close(torch.cat([gradient for _, gradient in split]), whole_gradient)
    if not masked:  # every row counts in every term, so dividing by the terms' own counts is the same
        close(loss_and_gradient(objective, batch)[0], whole)


@each_case
def test_rows_may_be_permuted(name: str, case: str) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    batch = a_batch(masked=True)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    loss, gradient = loss_and_gradient(objective, batch)
    moved, moved_gradient = loss_and_gradient(objective, take(batch, order))
    close(moved, loss)
    close(moved_gradient, gradient[order])


def alternatives(kind: Any, value: Any) -> list[Any]:
    """Other values for an option of this type."""
    if kind is bool:
        return [not value]
    if kind is int:
        return [value - 1, value + 1, 2 * value]
    if kind is float:
        return [other for other in (0.0, 0.3, 0.5 * value, 2 * value, value + 1) if other != value]
    if get_origin(kind) is Literal:
        return [other for other in get_args(kind) if other != value]
    raise AssertionError(f"teach this test other values for an option of type {kind}")


@pytest.mark.parametrize(
    ("name", "option"), [(name, f.name) for name in METHODS for f in fields(objectives.method(name))]
)
def test_every_option_changes_something(name: str, option: str) -> None:
    others = TOGETHER.get((name, option), {})
    base = objectives.load(name, **others)
    batch = a_batch()
    loss, gradient = loss_and_gradient(base, batch)
    changed, without_effect = 0, []
    for value in alternatives(get_type_hints(type(base))[option], getattr(base, option)):
        try:
            objective = objectives.load(name, **{**others, option: value})
        except UserError:
            continue
        changed += 1
        other_loss, other_gradient = loss_and_gradient(objective, batch)
        if torch.allclose(other_loss, loss, rtol=1e-6) and torch.allclose(other_gradient, gradient, rtol=1e-6, atol=0):
            without_effect.append(value)
    assert changed, "no other value was accepted"
    assert not without_effect, f"{option} has no effect at {without_effect}"


@each_case
def test_every_term_reaches_backward(name: str, case: str) -> None:
    objective, batch = load(name, case), a_batch()
    terms = objective.terms(batch)
    assert len({term.name for term in terms}) == len(terms) > 0
    gradients = []
    for index, term in enumerate(terms):
        assert term.weight > 0
        assert term.rows.shape == (8,)
        _, gradient = loss_and_gradient(objective, batch, term=index)
        assert gradient.abs().sum(-1).gt(0).all(), f"{term.name} does not reach every row"
        gradients.append(gradient)
    close(loss_and_gradient(objective, batch)[1], torch.stack(gradients).sum(0))


@each_case
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_large_scores(name: str, case: str, masked: bool, dtype: torch.dtype) -> None:
    batch = a_batch(masked=masked)
    assert batch.teacher is not None
    large = replace(batch, student=1e4 * batch.student.sign().to(dtype), teacher=1e4 * batch.teacher.sign().to(dtype))
    loss, gradient = loss_and_gradient(load(name, case), large)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@each_case
def test_bf16_in_float32_math(name: str, case: str) -> None:
    batch = a_batch()
    assert batch.teacher is not None
    half = replace(batch, student=batch.student.bfloat16(), teacher=batch.teacher.bfloat16())
    assert half.teacher is not None
    single = replace(half, student=half.student.float(), teacher=half.teacher.float())
    loss, gradient = loss_and_gradient(load(name, case), half)
    expected, expected_gradient = loss_and_gradient(load(name, case), single)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    # Each term's gradient is rounded to bf16 before they add up, so entries where terms cancel keep a larger error.
    rounding = 2**-8 * expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=2**-8, atol=rounding)
    assert all(term.rows.dtype == torch.float32 for term in load(name, case).terms(half))


@each_case
def test_a_student_equal_to_its_teacher_is_at_the_minimum(name: str, case: str) -> None:
    batch = a_batch()
    assert batch.teacher is not None
    loss, gradient = loss_and_gradient(load(name, case), replace(batch, student=batch.teacher + 0.5))
    if (name, case) in NO_IDENTITY:
        assert gradient.abs().max() > 1e-6, f"it is at its minimum; take {(name, case)} out of NO_IDENTITY"
        return
    assert gradient.abs().max() < 1e-13
    for seed in range(3):
        nearby = replace(batch, student=batch.teacher + 0.1 * a_batch(seed=seed + 1).student)
        assert loss_and_gradient(load(name, case), nearby)[0] > loss


@each_case
def test_the_teacher_gets_no_gradient_and_inputs_stay_as_they_are(name: str, case: str) -> None:
    batch = a_batch(masked=True)
    assert batch.teacher is not None
    kept = [tensor.clone() for tensor in (batch.student, batch.teacher, batch.labels, batch.mask) if tensor is not None]
    teacher = batch.teacher.requires_grad_()
    loss_and_gradient(load(name, case), batch)
    assert teacher.grad is None
    now = (batch.student, teacher.detach(), batch.labels, batch.mask)
    assert all(torch.equal(before, after) for before, after in zip(kept, now, strict=True) if after is not None)


@each_method
def test_the_same_seed_gives_the_same_loss(name: str) -> None:
    for case in OPTION_SETS.get(name, {"default": {}}):
        first, again = (loss_and_gradient(load(name, case), a_batch()) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


@each_method
def test_a_teacher_is_needed_exactly_where_it_says_so(name: str) -> None:
    objective, batch = objectives.load(name), replace(a_batch(), teacher=None)
    if not objective.needs_teacher:
        close(loss_and_gradient(objective, batch)[0], loss_and_gradient(objective, a_batch())[0])
        return
    with pytest.raises(ValueError, match="teacher"):
        objective.terms(batch)


@each_case
@pytest.mark.parametrize("shape", [(9,), (8, 1), (1, 9), (8,)])
def test_a_mask_never_broadcasts(name: str, case: str, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeError), match="mask"):
        load(name, case).terms(replace(a_batch(), mask=torch.ones(shape, dtype=torch.bool)))


@each_method
def test_an_unknown_option_names_the_nearest(name: str) -> None:
    known = [field.name for field in fields(objectives.method(name))]
    for option in known:
        with pytest.raises(UserError, match=rf"^{name}: unknown option '{option}x' \(did you mean '{option}'\?\)"):
            objectives.load(name, **{option + "x": 1})
    with pytest.raises(UserError, match="unknown option 'zzz'; known: " + (", ".join(known) or "it has none")):
        objectives.load(name, zzz=1)


@each_method
def test_an_option_of_the_wrong_type_is_a_user_error(name: str) -> None:
    hints = get_type_hints(objectives.method(name))
    for field in fields(objectives.method(name)):
        wrong = ["2", None, math.nan] + ([1] if hints[field.name] is bool else [True])
        for value in wrong:
            with pytest.raises(UserError, match=rf"^{name}: {field.name} must be .*, got {value!r}$"):
                objectives.load(name, **{field.name: value})


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown method 'gkrd' \(did you mean 'grkd'\?\); known: .*grkd.*kd.*none"):
        objectives.load("gkrd")


def test_names_are_the_files() -> None:
    folder = Path(objectives.__file__).parent
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == METHODS


@each_method
def test_the_method_is_documented(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "method.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8"), f"docs/method.md has no row for `{name}`"
