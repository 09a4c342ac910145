"""What every objective is: options in a frozen dataclass, and what it asks of a trainer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grkd.objectives._batch import Batch, Level
from grkd.objectives._options import Mistake, Option, converted, mistakes, options_of
from grkd.objectives._terms import Term

# Which responses of a group a method is trained on: all; the teacher's best; its best and worst ("ends"); those that
# were sampled from the teacher, or stand in the data.
Choice = Literal["all", "best", "ends", "teacher", "data"]
# The least that a teacher must give: a score per candidate, an order of all of them, or tiers (an order with ties).
LeastTeacher = Literal["scores", "order", "tiers"]
# What a row of tokens is beside a teacher of another vocabulary: a place where both predict the same text, over the
# tokens that both spell, or over each side's whole vocabulary; or a span of text.
Across = Literal["shared", "whole", "spans"]


class Asks:
    """What a method, and each part of grkd, asks of the data and of a trainer."""

    @property
    def couples_rows(self) -> bool:
        """Whether a row's loss depends on the other rows of its micro-batch."""
        return False

    @property
    def least_teacher(self) -> LeastTeacher:
        """The least that the teacher must give of a list. "order", "tiers": only the order of its scores is read."""
        return "scores"

    @property
    def least_candidates(self) -> int:
        """The fewest candidates on which the terms can be computed."""
        return 2

    def check_candidates(self, candidates: int) -> None:
        """Raises UserError if the options do not fit this number of candidates: asked before a run starts."""

    def check_for_tokens(self) -> None:
        """Raises UserError if the options do not fit rows whose candidates are a vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Objective(Asks, ABC):
    """A method's options. `terms` says what it minimises; `combine` makes a scalar of it.

    A method is a frozen dataclass that derives from this class; its fields are its options (`option`).

    Attributes
    ----------
    learns_from, minimises, source : str
        Its row in the tables of the documentation.
    needs_teacher : bool
        Whether it reads the teacher's scores of rows.
    needs_reference : bool
        Whether it reads Batch.reference.
    trains_on : {"all", "best", "ends", "teacher", "data"}
        Which responses of a group it is trained on.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import torch
    >>> from grkd.objectives import Batch, Objective, Term, combine, option
    >>> @dataclass(frozen=True, kw_only=True)
    ... class SquaredError(Objective):
    ...     weight: float = option(1.0, "weight of the squared difference of scores")
    ...     def terms(self, batch):
    ...         rows = (batch.student - batch.required_teacher()).square().sum(-1)
    ...         return (Term(name="squared_error", weight=self.weight, rows=rows, counted=batch.counted()),)
    >>> combine(SquaredError(weight=0.5).terms(Batch(student=torch.ones(2, 3), teacher=torch.zeros(2, 3))))
    tensor(1.5000)
    """

    learns_from: ClassVar[str] = ""
    minimises: ClassVar[str] = ""
    source: ClassVar[str] = "-"
    needs_teacher: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    trains_on: ClassVar[Choice] = "all"

    @classmethod
    def options(cls, given: Mapping[str, Any]) -> Mapping[str, Option]:
        """Every option that may be set, by name; some methods have more beside some that are given."""
        return options_of(cls)

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> list[Mistake]:
        """What is wrong with the names and types of given options."""
        return mistakes(cls.options(given), given)

    @classmethod
    def built(cls, given: Mapping[str, Any]) -> "Objective":
        """The method with these options, which have no mistakes. Raises UserError for values out of range."""
        return cls(**converted(options_of(cls), given))

    @classmethod
    def spelt_out(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that these, which have no mistakes, stand for: what a run is known by, and a report shows."""
        return converted(options_of(cls), given)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that `terms` is asked for, each with its own batch; each level's terms are divided by its rows."""
        return ("row",)

    @property
    def needs_features(self) -> bool:
        """Whether it reads Batch.features."""
        return False

    @property
    def on_policy(self) -> float:
        """Share of the prompts that the student answers again in training; their stored responses are not used."""
        return 0.0

    @property
    def teacher_mixed_in(self) -> float:
        """Weight of the teacher in the distribution that those answers are drawn from."""
        return 0.0

    @property
    def across_vocabularies(self) -> Across | None:
        """What its rows are beside a teacher of another vocabulary; None: it learns no tokens from one."""
        return None

    @property
    def takes_votes_on_rows(self) -> bool:
        """Whether the order of a row's candidates may come from votes of several teachers (Batch.votes)."""
        return False

    @property
    def least_of_responses(self) -> LeastTeacher:
        """The same of a group of responses, for methods that compare those."""
        return "tiers"

    def logged(self, progress: float) -> dict[str, float]:
        """Numbers that a trainer logs beside the terms, by name."""
        return {}

    @abstractmethod
    def terms(self, batch: Batch) -> tuple[Term, ...]:
        """The method's terms on a batch; weights may depend on batch.progress."""

    def head_options(self, progress: float) -> dict[str, Any] | None:
        """Options with which grkd.kernels.distillation_head computes this method; None: it cannot."""

    @property
    def head_names(self) -> tuple[str, str]:
        """Names in logs of the fused head's two terms, the pairs' and the divergence's: those that `terms` gives."""
        return "group_relative", "soft_target"
