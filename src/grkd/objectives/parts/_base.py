"""What every part of grkd is: one term with its own weight, level and word to the fused head."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.errors import UserError
from grkd.objectives._base import Asks
from grkd.objectives._batch import Batch, Level
from grkd.objectives._option_checks import not_negative, well_typed
from grkd.objectives._options import option
from grkd.objectives._terms import Term
from grkd.objectives.parts._score_pair import ScorePair

# What is compared: the candidates of a row, or a candidate over the rows of the micro-batch.
Axis = Literal["candidates", "batch"]


@dataclass(frozen=True, kw_only=True)
class Part(Asks, ABC):
    """One term of grkd. A part of one's own defines `loss`; the rest has defaults.

    Raises UserError for options out of range.
    """

    weight: float = option(1.0, "weight of the term")
    level: Level = option("row", "row: classes, or the tokens of responses; response: the responses of a prompt")

    def __init_subclass__(cls) -> None:
        """A part that computes something of its own does not inherit what another part says to the fused head."""
        super().__init_subclass__()
        if {"loss", "rows_and_counted"} & {*vars(cls)} and "head_options" not in vars(cls):
            cls.head_options = Part.head_options  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        well_typed(self.short_name(), self)
        not_negative(self.short_name(), self, "weight")
        self.check()

    def check(self) -> None:
        """Raises UserError for options out of range."""

    @classmethod
    def short_name(cls) -> str:
        """The class's name in a dotted path: SoftTarget -> "soft_target"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @property
    def term_name(self) -> str:
        """The term's name in logs."""
        return self.short_name()

    def head_options(self) -> dict[str, Any] | None:
        """Its options of grkd.kernels.distillation_head, its weight among them; None: the head cannot compute it."""
        return None

    @abstractmethod
    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        """One value per row in nats, [rows]; or one value for the micro-batch, which every row then carries."""

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> tuple[Float[Tensor, "..."], Bool[Tensor, " rows"]]:
        """The loss, and the rows that count in its mean: those with a candidate."""
        return self.loss(scores, batch), scores.counted()

    def term(self, scores: ScorePair, batch: Batch, share: float) -> Term:
        """The term on a batch, with `share` (alpha or 1 - alpha) times its weight."""
        rows, counted = self.rows_and_counted(scores, batch)
        return Term(name=self.term_name, weight=share * self.weight, rows=rows.expand(len(counted)), counted=counted)


@dataclass(frozen=True, kw_only=True)
class AxisPart(Part):
    """A part that compares the candidates of a row or, rows and candidates changed over, a candidate over the batch."""

    over: Axis = option("candidates", "compare the candidates of a row, or (batch) the rows of the micro-batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over == "batch" and self.level != "row":
            raise UserError(f"{self.short_name()}: over: batch compares rows; set level: row")

    @property
    def term_name(self) -> str:
        return self.short_name() + ("_over_batch" if self.over == "batch" else "")

    @property
    def couples_rows(self) -> bool:
        return self.over == "batch"


def batch_mean(losses: Float[Tensor, " columns"], counted: Bool[Tensor, " columns"] | None) -> Float[Tensor, ""]:
    """Mean over the columns that count (None: all); 0 if there is none."""
    if counted is None:
        return losses.mean()
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)
