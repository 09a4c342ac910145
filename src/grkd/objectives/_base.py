"""What every objective is: options in a frozen dataclass, and terms with one loss a row."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.groups import checked_mask, wide


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of scores that an objective turns into losses.

    student: [rows, candidates]; teacher: the same shape, or None for methods without one.
    mask: True where a candidate exists; a row that is False throughout counts nowhere.
    labels: the true candidate of each row, where known. progress: of training, in [0, 1].
    generator: for the draw of groups; None uses torch's global state.
    """

    student: Float[Tensor, "rows candidates"]
    teacher: Float[Tensor, "rows candidates"] | None = None
    mask: Bool[Tensor, "rows candidates"] | None = None
    labels: Int[Tensor, " rows"] | None = None
    progress: float = 0.0
    generator: torch.Generator | None = None

    def counted(self) -> Bool[Tensor, " rows"]:
        """Rows with at least one candidate."""
        return checked_mask(self.mask, self.student).any(-1)

    def required_teacher(self) -> Float[Tensor, "rows candidates"]:
        if self.teacher is None:
            raise ValueError("this objective needs teacher scores")
        return self.teacher


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of an objective: `weight` times the mean of `rows` over the rows that count."""

    name: str
    weight: float
    rows: Float[Tensor, " rows"]
    counted: Bool[Tensor, " rows"]

    def total(self) -> Float[Tensor, ""]:
        """Sum over the rows that count."""
        return torch.where(self.counted, self.rows, 0.0).sum()


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A method's options. `terms` says what it minimises; `combine` makes a scalar of it."""

    needs_teacher: ClassVar[bool] = True

    @abstractmethod
    def terms(self, batch: Batch) -> tuple[Term, ...]:
        """The method's terms on a batch; weights may depend on batch.progress."""

    def head_options(self, progress: float) -> dict[str, Any] | None:  # noqa: B027
        """Options with which grkd.kernels.distillation_head computes this method; None: it cannot."""

    def check_candidates(self, candidates: int) -> None:  # noqa: B027  (most methods take any number)
        """Raises UserError where the options do not fit this number of candidates: asked before a run starts."""


def combine(terms: Sequence[Term], *, rows: Float[Tensor, ""] | int | None = None) -> Float[Tensor, ""]:
    """Weighted sum of the terms' means.

    rows: the divisor of every sum. A trainer passes the global number of rows over micro-batches and ranks, so that
    the gradient does not depend on how they are split; None divides each term by its own number of counted rows.
    """
    parts = [term.weight * term.total() / (term.counted.sum().clamp_min(1) if rows is None else rows) for term in terms]
    return torch.stack(parts).sum()


def label_term(batch: Batch, weight: float) -> Term:
    """Cross-entropy on hard labels, -log p_S(label) in nats; a negative label leaves its row out.

    Raises ValueError where the batch has no labels, or not one a row (they never broadcast).
    """
    if batch.labels is None:
        raise ValueError("a term on hard labels needs labels")
    rows = batch.student.shape[:-1]
    if batch.labels.shape != rows:
        raise ValueError(
            f"labels have shape {tuple(batch.labels.shape)}, rows of scores {tuple(rows)}; one label a row"
        )
    mask = checked_mask(batch.mask, batch.student)
    counted = mask.any(-1) & (batch.labels >= 0)
    student = wide(batch.student)
    log_probs = torch.where(mask, student, torch.finfo(student.dtype).min).log_softmax(-1)
    chosen = log_probs.gather(-1, torch.where(counted, batch.labels, 0).unsqueeze(-1)).squeeze(-1)
    return Term(name="labels", weight=weight, rows=torch.where(counted, -chosen, 0.0), counted=counted)
