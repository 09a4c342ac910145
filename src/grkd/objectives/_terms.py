"""What an objective gives: terms with one loss per row, and how they become the number that is minimised."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import checked_mask
from grkd.losses import masked_log_softmax
from grkd.objectives._batch import Batch


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of an objective: `weight` times the mean of `rows` over the rows that count.

    Parameters
    ----------
    name : str
        In logs.
    weight : float
        Above 0.
    rows : Tensor [rows]
        One loss per row.
    counted : bool Tensor [rows]
        Which rows count.
    tokens : Tensor [rows], optional
        Number of tokens of each row, if the sum is to be divided by the tokens instead of the rows.

    Examples
    --------
    >>> import torch
    >>> from grkd.objectives import Term
    >>> term = Term(name="mine", weight=1.0, rows=torch.tensor([2.0, 9.0]), counted=torch.tensor([True, False]))
    >>> term.total(), term.count()
    (tensor(2.), tensor(1.))
    """

    name: str
    weight: float
    rows: Float[Tensor, " rows"]
    counted: Bool[Tensor, " rows"]
    tokens: Float[Tensor, " rows"] | None = None

    def total(self) -> Float[Tensor, ""]:
        """Sum over the rows that count."""
        return torch.where(self.counted, self.rows, 0.0).sum()

    def count(self) -> Float[Tensor, ""]:
        """Rows that count, or the number of their tokens."""
        units = self.counted.float() if self.tokens is None else torch.where(self.counted, self.tokens, 0.0)
        return units.sum()


def combine(
    terms: Sequence[Term],
    *,
    rows: Float[Tensor, ""] | int | None = None,
    tokens: Float[Tensor, ""] | int | None = None,
) -> Float[Tensor, ""]:
    """Weighted sum of the terms' means: what is minimised.

        L = sum over terms of weight * (sum of its rows that count) / divisor

    Parameters
    ----------
    terms : sequence of Term
        As an objective's `terms(batch)` gives them.
    rows : int or Tensor, optional
        Divisor of terms per row. A trainer passes the global number over micro-batches and ranks, so that the gradient
        does not depend on how they are split. None: each term's own count.
    tokens : int or Tensor, optional
        The same of terms per token.

    Returns
    -------
    Tensor []
        The loss.

    Examples
    --------
    >>> import torch
    >>> from grkd import objectives
    >>> batch = objectives.Batch(student=torch.zeros(2, 4), teacher=torch.eye(2, 4), progress=0.5)
    >>> objectives.combine(objectives.load("grkd").terms(batch))
    tensor(1.0397)
    """
    parts = []
    for term in terms:
        given = rows if term.tokens is None else tokens
        parts.append(term.weight * term.total() / (term.count().clamp_min(1) if given is None else given))
    return torch.stack(parts).sum()


def labelled(batch: Batch) -> Bool[Tensor, " rows"]:
    """Rows with a label that is not negative and, if there is a mask, one of the row's candidates.

    Raises ValueError if the batch has no labels, or not one per row (they never broadcast).
    """
    if batch.labels is None:
        raise ValueError("a term on hard labels needs labels")
    rows = batch.student.shape[:-1]
    if batch.labels.shape != rows:
        raise ValueError(
            f"labels have shape {tuple(batch.labels.shape)}, rows of scores {tuple(rows)}; one label per row"
        )
    known = batch.labels >= 0
    if batch.mask is None:
        return batch.counted() & known
    exists = checked_mask(batch.mask, batch.student)
    return known & exists.gather(-1, torch.where(known, batch.labels, 0).unsqueeze(-1)).squeeze(-1)


def label_term(batch: Batch, weight: float) -> Term:
    """Cross-entropy on hard labels, -log p_S(label) in nats; rows that are not `labelled` are left out."""
    counted = labelled(batch)
    assert batch.labels is not None
    log_probs = masked_log_softmax(batch.student, checked_mask(batch.mask, batch.student), 1.0)
    chosen = log_probs.gather(-1, torch.where(counted, batch.labels, 0).unsqueeze(-1)).squeeze(-1)
    return Term(name="labels", weight=weight, rows=torch.where(counted, -chosen, 0.0), counted=counted)
