"""What every method in grkd.objectives promises. A new method is found by its file and runs through all of this.

The tables in _row_cases and _response_cases say what cannot be derived: option sets beyond the defaults, options that
matter only together with others, methods whose minimum is not at the teacher.

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
from grkd.objectives import Batch, Level, Term, combine
from tests.objectives import _response_cases, _row_cases

OPTION_SETS = _row_cases.OPTION_SETS | _response_cases.OPTION_SETS
TOGETHER = _row_cases.TOGETHER | _response_cases.TOGETHER
NO_IDENTITY = _row_cases.NO_IDENTITY | _response_cases.NO_IDENTITY
DETERMINISTIC = _row_cases.DETERMINISTIC | _response_cases.DETERMINISTIC

METHODS = objectives.names()


def load(name: str, case: str, **changed: Any) -> objectives.Objective:
    return objectives.load(name, **{**OPTION_SETS.get(name, {}).get(case, {}), **changed})


CASES = [
    (name, case, level)
    for name in METHODS
    for case in OPTION_SETS.get(name, {"default": {}})
    for level in load(name, case).levels
]
each_method = pytest.mark.parametrize("name", METHODS)
each_case = pytest.mark.parametrize(("name", "case", "level"), CASES, ids=["-".join(case) for case in CASES])


def a_batch(rows: int = 8, candidates: int = 9, *, masked: bool = False, seed: int = 0, level: Level = "row") -> Batch:
    """Float64 scores; with `masked`, some candidates and one whole row are missing.

    Whatever a level may have is there: rows are tokens of four responses that were drawn in training, and examples
    with features; responses have lengths and scores under a reference model.
    """
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
    more = torch.Generator().manual_seed(seed + 1000)
    draw = partial(torch.randn, generator=more, dtype=torch.float64)
    shared = {"student": student, "teacher": 2 * teacher, "mask": mask, "progress": 0.3}
    if level == "response":
        lengths = torch.randint(1, 30, student.shape, generator=more)
        return Batch(**shared, level=level, lengths=lengths, reference=student + 0.2 * draw(rows, candidates))
    return Batch(
        **shared,
        labels=order.argmax(-1),
        response=torch.arange(rows) // 2,
        sampled_log_probs=draw(rows) - 2,
        student_features=draw(rows, 5),
        teacher_features=draw(rows, 6),
    )


def take(batch: Batch, rows: Any) -> Batch:
    """Some of the rows, as a batch."""
    taken = {f.name: getattr(batch, f.name)[rows] for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
    if "response" in taken:  # numbers of responses start from 0 in every batch
        taken["response"] = torch.unique(taken["response"], return_inverse=True)[1]
    return replace(batch, **taken)


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
    assert set(NO_IDENTITY) <= {(name, case) for name, case, _ in CASES}
    assert all(option in {field.name for field in fields(objectives.method(name))} for name, option in TOGETHER)


@each_case
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_positions_get_no_gradient(name: str, case: str, level: Level, junk: float) -> None:
    batch = a_batch(masked=True, level=level)
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
def test_a_row_masked_whole_counts_nowhere(name: str, case: str, level: Level) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    batch = a_batch(masked=True, level=level)
    loss, gradient = loss_and_gradient(objective, batch)
    kept = [row for row in range(8) if row != 1]
    expected, expected_gradient = loss_and_gradient(objective, take(batch, kept))
    close(loss, expected)
    close(gradient[kept], expected_gradient)


@each_case
def test_nothing_to_count_gives_zero(name: str, case: str, level: Level) -> None:
    batch = replace(a_batch(level=level), mask=torch.zeros(8, 9, dtype=torch.bool))
    loss, gradient = loss_and_gradient(load(name, case), batch)
    assert loss == 0
    assert (gradient == 0).all()


@each_case
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_batch_is_the_mean_of_its_parts(name: str, case: str, level: Level, masked: bool, parts: int) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    if objective.couples_rows:
        pytest.skip("its rows depend on each other by design")
    batch = a_batch(masked=masked, level=level)
    whole, whole_gradient = loss_and_gradient(objective, batch, rows=8)
    split = [loss_and_gradient(objective, take(batch, part), rows=8) for part in torch.arange(8).chunk(parts)]
    close(torch.stack([loss for loss, _ in split]).sum(), whole)
    close(torch.cat([gradient for _, gradient in split]), whole_gradient)
    if not masked:  # every row counts in every term, so dividing by the terms' own counts is the same
        close(loss_and_gradient(objective, batch)[0], whole)


@each_case
def test_rows_may_be_permuted(name: str, case: str, level: Level) -> None:
    objective = load(name, case, **DETERMINISTIC.get(name, {}))
    batch = a_batch(masked=True, level=level)
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


def at_all_levels(objective: objectives.Objective) -> list[Tensor]:
    """Loss and gradient at each of the objective's levels."""
    return [part for level in objective.levels for part in loss_and_gradient(objective, a_batch(level=level))]


@pytest.mark.parametrize(
    ("name", "option"), [(name, f.name) for name in METHODS for f in fields(objectives.method(name))]
)
def test_every_option_changes_something(name: str, option: str) -> None:
    others = TOGETHER.get((name, option), {})
    base = objectives.load(name, **others)
    before = at_all_levels(base)
    changed, without_effect = 0, []
    for value in alternatives(get_type_hints(type(base))[option], getattr(base, option)):
        try:
            objective = objectives.load(name, **{**others, option: value})
        except UserError:
            continue
        changed += 1
        after = at_all_levels(objective)
        same = len(before) == len(after) and all(
            torch.allclose(found, was, rtol=1e-6, atol=0) for found, was in zip(after, before, strict=True)
        )
        if same and objective.on_policy == base.on_policy and objective.teacher_mixed_in == base.teacher_mixed_in:
            without_effect.append(value)
    assert changed, "no other value was accepted"
    assert not without_effect, f"{option} has no effect at {without_effect}"


@each_case
def test_every_term_reaches_backward(name: str, case: str, level: Level) -> None:
    objective, batch = load(name, case), a_batch(level=level)
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
def test_finite_at_large_scores(name: str, case: str, level: Level, masked: bool, dtype: torch.dtype) -> None:
    batch = a_batch(masked=masked, level=level)
    assert batch.teacher is not None
    large = replace(batch, student=1e4 * batch.student.sign().to(dtype), teacher=1e4 * batch.teacher.sign().to(dtype))
    loss, gradient = loss_and_gradient(load(name, case), large)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@each_case
def test_bf16_in_float32_math(name: str, case: str, level: Level) -> None:
    batch = a_batch(level=level)
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
def test_a_student_equal_to_its_teacher_is_at_the_minimum(name: str, case: str, level: Level) -> None:
    batch = a_batch(level=level)
    assert batch.teacher is not None
    loss, gradient = loss_and_gradient(load(name, case), replace(batch, student=batch.teacher + 0.5))
    if (name, case) in NO_IDENTITY:
        assert gradient.abs().max() > 1e-6, f"it is at its minimum; take {(name, case)} out of NO_IDENTITY"
        return
    assert gradient.abs().max() < 1e-13
    for seed in range(3):
        nearby = replace(batch, student=batch.teacher + 0.1 * a_batch(seed=seed + 1, level=level).student)
        assert loss_and_gradient(load(name, case), nearby)[0] > loss


@each_case
def test_the_teacher_gets_no_gradient_and_inputs_stay_as_they_are(name: str, case: str, level: Level) -> None:
    batch = a_batch(masked=True, level=level)
    assert batch.teacher is not None
    kept = [tensor.clone() for tensor in (batch.student, batch.teacher, batch.mask) if tensor is not None]
    teacher = batch.teacher.requires_grad_()
    loss_and_gradient(load(name, case), batch)
    assert teacher.grad is None
    now = (batch.student, teacher.detach(), batch.mask)
    assert all(torch.equal(before, after) for before, after in zip(kept, now, strict=True) if after is not None)


@each_method
def test_the_same_seed_gives_the_same_loss(name: str) -> None:
    for case in OPTION_SETS.get(name, {"default": {}}):
        first, again = (at_all_levels(load(name, case)) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@each_method
def test_a_teacher_is_needed_exactly_where_it_says_so(name: str) -> None:
    objective = objectives.load(name)
    batch = replace(a_batch(level=objective.levels[0]), teacher=None)
    if not objective.needs_teacher:
        whole = a_batch(level=objective.levels[0])
        close(loss_and_gradient(objective, batch)[0], loss_and_gradient(objective, whole)[0])
        return
    with pytest.raises(ValueError, match="teacher"):
        objective.terms(batch)


@each_case
@pytest.mark.parametrize("shape", [(9,), (8, 1), (1, 9), (8,)])
def test_a_mask_never_broadcasts(name: str, case: str, level: Level, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeError), match="mask"):
        load(name, case).terms(replace(a_batch(level=level), mask=torch.ones(shape, dtype=torch.bool)))


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
    with pytest.raises(UserError, match=r"unknown method 'sinpo' \(did you mean 'simpo'\?\); known: ce, .*grkd.*kd"):
        objectives.load("sinpo")


def test_names_are_the_files() -> None:
    folder = Path(objectives.__file__).parent
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == METHODS


@each_method
def test_the_method_is_documented(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "method.md"
    assert f"`{name}`" in page.read_text(encoding="utf-8"), f"docs/method.md has no row for `{name}`"
