"""Batches with everything that an objective may read, and a loss with its gradient."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.objectives import Batch, Features, Level, Objective, ResponseTokens, Votes, combine

ROWS, CANDIDATES = 8, 9


def a_batch(
    rows: int = ROWS, candidates: int = CANDIDATES, *, masked: bool = False, seed: int = 0, level: Level = "row"
) -> Batch:
    """A batch for checks, in float64, with everything that its level may have.

    At level "row" rows are tokens of four responses that were drawn in training, and examples with features; at level
    "response" responses have lengths and scores under a reference model.

    Parameters
    ----------
    rows, candidates : int
        Its size.
    masked : bool
        Whether some candidates and one whole row are missing.
    seed : int
        Of the random scores.
    level : {"row", "response"}
        What a row is.

    Returns
    -------
    Batch
        The batch.

    Examples
    --------
    >>> from grkd import testing
    >>> testing.a_batch(2, 5).student.shape
    torch.Size([2, 5])
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
    shared: dict[str, Any] = {"student": student, "teacher": 2 * teacher, "mask": mask, "progress": 0.3}
    if level == "response":
        lengths = torch.randint(1, 30, student.shape, generator=more)
        reference = student + 0.2 * draw(rows, candidates)
        return with_tokens(Batch(**shared, level=level, lengths=lengths, reference=reference))
    return Batch(
        **shared,
        labels=order.argmax(-1),
        response=torch.arange(rows) // 2,
        sampled_log_probs=draw(rows) - 2,
        features=Features(student=draw(rows, 5), teacher=draw(rows, 6)),
    )


def take(batch: Batch, rows: Any) -> Batch:
    """Some of the rows, as a batch.

    Parameters
    ----------
    batch : Batch
        The batch.
    rows : slice or int Tensor
        Which rows.

    Returns
    -------
    Batch
        These rows.

    Examples
    --------
    >>> from grkd import testing
    >>> testing.take(testing.a_batch(4), slice(1, 3)).student.shape[0]
    2
    """
    taken = {f.name: getattr(batch, f.name)[rows] for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
    if "response" in taken:  # numbers of responses start from 0 in every batch
        taken["response"] = torch.unique(taken["response"], return_inverse=True)[1]
    if batch.features is not None:
        taken["features"] = Features(student=batch.features.student[rows], teacher=batch.features.teacher[rows])
    if isinstance(batch.votes, Votes):
        chosen = {f.name: value[rows] for f in fields(Votes) if (value := getattr(batch.votes, f.name)) is not None}
        taken["votes"] = Votes(**chosen)
    return with_tokens(replace(batch, **taken))


def with_tokens(batch: Batch) -> Batch:
    """One to three tokens per response, each with its mean log-probability; drawn when a little likelier or less."""
    if batch.level != "response" or batch.lengths is None:
        return batch
    exists = checked_mask(batch.mask, batch.student).flatten()
    here = exists.nonzero().squeeze(-1)
    place = here.repeat_interleave(1 + batch.lengths.flatten()[here] % 3)
    log_probs = wide(batch.student.flatten()[place])
    drawn = log_probs.detach() + 0.5 * batch.lengths.flatten()[place].to(log_probs.dtype).sin()
    return replace(batch, tokens=ResponseTokens(log_probs=log_probs, place=place, sampled_log_probs=drawn))


def loss_and_gradient(
    objective: Objective, batch: Batch, *, rows: int | None = None, term: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss and the student's gradient; groups are drawn from the same seed every time.

    Parameters
    ----------
    objective : Objective
        The method.
    batch : Batch
        The batch.
    rows : int, optional
        The divisor. None: each term's own count.
    term : int, optional
        The only term that is taken. None: all.

    Returns
    -------
    (Tensor [], Tensor [rows, candidates])
        The loss, and its gradient by the student's scores.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> loss, gradient = testing.loss_and_gradient(objectives.load("kd"), testing.a_batch())
    >>> gradient.shape == testing.a_batch().student.shape
    True
    """
    student = batch.student.detach().clone().requires_grad_()
    moved = with_tokens(replace(batch, student=student, seeds=torch.Generator().manual_seed(7)))
    terms = objective.terms(moved)
    loss = combine(terms if term is None else [terms[term]], rows=rows)
    loss.backward()
    assert student.grad is not None, "the loss does not depend on the student's scores"
    return loss.detach(), student.grad
