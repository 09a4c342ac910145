"""What every objective promises, a check each: AssertionError says in one line what is wrong."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from grkd.objectives import Level, Objective
from grkd.testing._batches import CANDIDATES, ROWS, a_batch, loss_and_gradient, take, with_tokens

_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def check_masked_positions(objective: Objective, level: Level) -> None:
    """What stands at masked positions (NaN, inf) reaches neither the loss nor the gradient."""
    batch = a_batch(masked=True, level=level)
    assert batch.mask is not None
    assert batch.teacher is not None
    clean, clean_gradient = loss_and_gradient(objective, batch)
    for junk in (math.nan, math.inf, -math.inf, 1e30):
        student, teacher = (scores.masked_fill(~batch.mask, junk) for scores in (batch.student, batch.teacher))
        loss, gradient = loss_and_gradient(objective, replace(batch, student=student, teacher=teacher))
        assert (gradient[~batch.mask] == 0).all(), "a masked position has a gradient"
        assert gradient[batch.mask].abs().sum() > 0, "no position has a gradient"
        assert torch.equal(loss, clean), f"{junk} at masked positions changes the loss"
        assert torch.equal(gradient, clean_gradient), f"{junk} at masked positions changes the gradient"


def check_nothing_to_count(objective: Objective, level: Level) -> None:
    """A batch that is masked throughout gives 0."""
    loss, gradient = loss_and_gradient(
        objective, replace(a_batch(level=level), mask=torch.zeros(ROWS, CANDIDATES, dtype=torch.bool))
    )
    assert loss == 0, f"a batch that is masked throughout has the loss {loss.item()}"
    assert (gradient == 0).all(), "a batch that is masked throughout has a gradient"


def check_terms(objective: Objective, level: Level) -> None:
    """Every term has a name of its own, a weight above 0 and one value per row, and reaches every row's gradient."""
    batch = a_batch(level=level)
    terms = objective.terms(batch)
    assert len({term.name for term in terms}) == len(terms) > 0, "terms need names, each its own"
    gradients = []
    for index, term in enumerate(terms):
        assert term.weight > 0, f"{term.name} has the weight {term.weight}: leave it out"
        assert term.rows.shape == term.counted.shape == (ROWS,), f"{term.name} must have one value per row"
        _, gradient = loss_and_gradient(objective, batch, term=index)
        assert gradient.abs().sum(-1).gt(0).all(), f"{term.name} does not reach every row"
        gradients.append(gradient)
    _close(loss_and_gradient(objective, batch)[1], torch.stack(gradients).sum(0))


def check_large_scores(objective: Objective, level: Level) -> None:
    """Loss and gradient are finite at scores of 10,000, in float32 and bfloat16, with and without a mask."""
    for masked in (False, True):
        batch = a_batch(masked=masked, level=level)
        assert batch.teacher is not None
        for dtype in (torch.float32, torch.bfloat16):
            student, teacher = (1e4 * scores.sign().to(dtype) for scores in (batch.student, batch.teacher))
            loss, gradient = loss_and_gradient(objective, replace(batch, student=student, teacher=teacher))
            assert loss.isfinite(), f"the loss is {loss.item()} at scores of 10,000 in {dtype}"
            assert gradient.isfinite().all(), f"the gradient is not finite at scores of 10,000 in {dtype}"


def check_bfloat16(objective: Objective, level: Level) -> None:
    """Scores in bfloat16 are computed in float32."""
    batch = a_batch(level=level)
    assert batch.teacher is not None
    half = replace(batch, student=batch.student.bfloat16(), teacher=batch.teacher.bfloat16())
    assert half.teacher is not None
    single = replace(half, student=half.student.float(), teacher=half.teacher.float())
    loss, gradient = loss_and_gradient(objective, half)
    expected, expected_gradient = loss_and_gradient(objective, single)
    assert all(term.rows.dtype == torch.float32 for term in objective.terms(with_tokens(half))), (
        "bfloat16 must become float32"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    # Each term's gradient is rounded to bf16 before they add up, so entries where terms cancel keep a larger error.
    rounding = 2**-8 * expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=2**-8, atol=rounding)


def check_inputs(objective: Objective, level: Level) -> None:
    """The teacher gets no gradient, inputs stay as they are, and the same seed gives the same loss."""
    batch = a_batch(masked=True, level=level)
    assert batch.teacher is not None
    kept = [tensor.clone() for tensor in (batch.student, batch.teacher, batch.mask) if tensor is not None]
    teacher = batch.teacher.requires_grad_()
    first = loss_and_gradient(objective, batch)
    assert teacher.grad is None, "the teacher's scores get a gradient"
    now = [tensor for tensor in (batch.student, teacher.detach(), batch.mask) if tensor is not None]
    assert all(map(torch.equal, kept, now)), "an input was changed in place"
    assert all(map(torch.equal, first, loss_and_gradient(objective, batch))), "the same seed gives another loss"


def check_mask_shapes(objective: Objective, level: Level) -> None:
    """A mask of another shape is refused: it never broadcasts."""
    for shape in ((CANDIDATES,), (ROWS, 1), (1, CANDIDATES), (ROWS,)):
        try:
            objective.terms(replace(a_batch(level=level), mask=torch.ones(shape, dtype=torch.bool)))
        except (ValueError, TypeError):  # the second is jaxtyping's, where it is switched on
            continue
        raise AssertionError(f"a mask of shape {shape} is taken for scores of shape {(ROWS, CANDIDATES)}")


def check_masked_row(objective: Objective, level: Level) -> None:
    """A row that is masked throughout counts nowhere."""
    batch = a_batch(masked=True, level=level)
    loss, gradient = loss_and_gradient(objective, batch)
    kept = [row for row in range(ROWS) if row != 1]
    expected, expected_gradient = loss_and_gradient(objective, take(batch, kept))
    _close(loss, expected)
    _close(gradient[kept], expected_gradient)


def check_permuted_rows(objective: Objective, level: Level) -> None:
    """The order of the rows changes nothing."""
    batch = a_batch(masked=True, level=level)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    loss, gradient = loss_and_gradient(objective, batch)
    moved, moved_gradient = loss_and_gradient(objective, take(batch, order))
    _close(moved, loss)
    _close(moved_gradient, gradient[order])


def check_split_batch(objective: Objective, level: Level) -> None:
    """The batch is the mean of its parts, unless the objective says that it couples rows."""
    if objective.couples_rows:
        return
    for masked in (False, True):
        batch = a_batch(masked=masked, level=level)
        whole, whole_gradient = loss_and_gradient(objective, batch, rows=ROWS)
        for number in (2, 4, 8):
            chunks = torch.arange(ROWS).chunk(number)
            split = [loss_and_gradient(objective, take(batch, chunk), rows=ROWS) for chunk in chunks]
            _close(torch.stack([loss for loss, _ in split]).sum(), whole)
            _close(torch.cat([gradient for _, gradient in split]), whole_gradient)
        if not masked:  # every row counts in every term, so dividing by the terms' own counts is the same
            _close(loss_and_gradient(objective, batch)[0], whole)


def check_minimum(objective: Objective, level: Level, at_teacher: bool) -> None:
    """Check whether a student equal to its teacher has no gradient and the least loss.

    Parameters
    ----------
    objective : Objective
        The method.
    level : {"row", "response"}
        Of the batch.
    at_teacher : bool
        Whether the minimum is there, or must not be.

    Raises
    ------
    AssertionError
        If it is otherwise.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> testing.check_minimum(objectives.load("kd"), "row", True)
    """
    batch = a_batch(level=level)
    assert batch.teacher is not None
    loss, gradient = loss_and_gradient(objective, replace(batch, student=batch.teacher + 0.5))
    if not at_teacher:
        assert gradient.abs().max() > 1e-6, "a student equal to its teacher is at the minimum: minimum_at_teacher=True"
        return
    assert gradient.abs().max() < 1e-13, "a student equal to its teacher has a gradient"
    for seed in range(3):
        nearby = replace(batch, student=batch.teacher + 0.1 * a_batch(seed=seed + 1, level=level).student)
        assert loss_and_gradient(objective, nearby)[0] > loss, "a student near its teacher has a lower loss"


def check_teacher(objective: Objective) -> None:
    """Check that the method asks for its teacher exactly if it reads one.

    Parameters
    ----------
    objective : Objective
        The method.

    Raises
    ------
    AssertionError
        If needs_teacher is wrong.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> testing.check_teacher(objectives.load("ce"))
    """
    batch = replace(a_batch(level=objective.levels[0]), teacher=None)
    if not objective.needs_teacher:
        complete = a_batch(level=objective.levels[0])
        _close(loss_and_gradient(objective, batch)[0], loss_and_gradient(objective, complete)[0])
        return
    said = None
    try:
        objective.terms(batch)
    except ValueError as error:
        said = str(error)
    assert said is not None, "needs_teacher is true, but the terms do not need the teacher's scores"
    assert "teacher" in said, f"without a teacher the error does not name it: {said}"


def check_order_alone(objective: Objective, level: Level) -> None:
    """A method that asks for an order alone does not see how far apart the teacher's scores are."""
    least = objective.least_teacher if level == "row" else objective.least_of_responses
    if least == "scores":
        return
    batch = a_batch(masked=True, level=level)
    assert batch.teacher is not None
    # Tiers of several candidates, if ties are allowed.
    teacher = batch.teacher.round(decimals=0) if least == "tiers" else batch.teacher
    loss, gradient = loss_and_gradient(objective, replace(batch, teacher=teacher))
    for other in (teacher.exp() - 7, 3 * teacher + teacher.pow(3)):
        found, found_gradient = loss_and_gradient(objective, replace(batch, teacher=other))
        _close(found, loss)
        _close(found_gradient, gradient)


Check = Callable[[Objective, Level], None]
# Of an objective at one of its levels; those of the second list need draws that do not depend on the batch.
CHECKS: tuple[Check, ...] = (
    check_masked_positions,
    check_nothing_to_count,
    check_terms,
    check_large_scores,
    check_bfloat16,
    check_inputs,
    check_mask_shapes,
    check_order_alone,
)
CHECKS_OF_BATCHES: tuple[Check, ...] = (check_masked_row, check_permuted_rows, check_split_batch)
