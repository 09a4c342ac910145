"""What every objective is: options in a frozen dataclass, and terms with one loss per row.

Over 300 lines: half of them are the docstrings of the public classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.groups import checked_mask
from grkd.losses import masked_log_softmax
from grkd.objectives._options import Mistake, Option, converted, mistakes, options_of

# What a row is: a class example or a token ("row"), or a prompt whose candidates are responses ("response").
Level = Literal["row", "response"]
# Which responses of a group a method is trained on: all; the teacher's best; its best and worst ("ends"); those that
# were sampled from the teacher, or stand in the data.
Choice = Literal["all", "best", "ends", "teacher", "data"]
# The least that a teacher must give: a score per candidate, an order of all of them, or tiers (an order with ties).
LeastTeacher = Literal["scores", "order", "tiers"]
# What a row of tokens is beside a teacher of another vocabulary: a place where both predict the same text, over the
# tokens that both spell, or over each side's whole vocabulary; or a span of text.
Across = Literal["shared", "whole", "spans"]


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Targets of pairs that were given from outside: opinions of rankers, tiers (`grkd.losses.voted_pairs`).

    Parameters
    ----------
    targets : Tensor [rows, candidates, candidates]
        q_ij in [0, 1], the share of the opinions that put candidate i above j; entries with i < j are read.
    weights : Tensor [rows, candidates, candidates], optional
        How many opinions, or how much they count; 0: the pair is not compared. None: 1 for every pair.
    soft_weights : Tensor [rows], optional
        Factor of each row's soft targets, if the candidates and the teacher's scores stand for a sample. None: 1.
    """

    targets: Float[Tensor, "rows candidates candidates"]
    weights: Float[Tensor, "rows candidates candidates"] | None = None
    soft_weights: Float[Tensor, " rows"] | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the last layers of a classifier's student and teacher read; the widths may differ.

    Parameters
    ----------
    student : Tensor [rows, student_features]
        With the student's graph.
    teacher : Tensor [rows, teacher_features]
        Of the teacher.
    """

    student: Float[Tensor, "rows student_features"]
    teacher: Float[Tensor, "rows teacher_features"]


@dataclass(frozen=True, kw_only=True)
class ResponseTokens:
    """The tokens of a batch's responses, one response after the other.

    Parameters
    ----------
    log_probs : Tensor [tokens]
        Log-probability of each token under the student in nats, with its graph.
    place : int Tensor [tokens]
        row * candidates + candidate of the response that a token belongs to.
    sampled_log_probs : Tensor [tokens], optional
        Log-probability in nats with which each was drawn; NaN for tokens of stored responses. None: all are stored.
    """

    log_probs: Float[Tensor, " tokens"]
    place: Int[Tensor, " tokens"]
    sampled_log_probs: Float[Tensor, " tokens"] | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of scores that an objective turns into losses.

    At level "row" a row is an example or a token. At level "response" a row is a prompt and a candidate a response;
    scores are then mean token log-probabilities of responses, in nats per token (the teacher's: its reward).

    Parameters
    ----------
    student : Tensor [rows, candidates]
        The student's scores, with their graph.
    teacher : Tensor [rows, candidates], optional
        The teacher's; None for methods without one.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists; a row that is False throughout counts nowhere.
    labels : int Tensor [rows], optional
        The true candidate of each row, where known.
    progress : float
        Of training, in [0, 1].
    seeds : int64 Tensor [rows] or torch.Generator, optional
        One seed per row for the draw of its group, so that it does not depend on how rows are split; or a generator
        that draws for all rows. None: torch's global state.
    level : {"row", "response"}
        What a row is.
    lengths : int Tensor [rows, candidates], optional
        Tokens of each response.
    reference : Tensor [rows, candidates], optional
        Mean token log-probabilities under the student before training, in nats.
    response : int Tensor [rows], optional
        Rows that are tokens: the response that each belongs to, rising from 0.
    sampled_log_probs : Tensor [rows], optional
        Rows that are tokens: log-probability in nats with which the label was drawn, if it was drawn in training.
    features : Features, optional
        Of classifiers.
    votes : Votes, optional
        Targets of pairs of candidates, in place of those that the teacher's scores would give.
    tokens : ResponseTokens, optional
        The responses' tokens one by one.

    Examples
    --------
    >>> import torch
    >>> from grkd.objectives import Batch
    >>> Batch(student=torch.zeros(2, 3), mask=torch.tensor([[True] * 3, [False] * 3])).counted()
    tensor([ True, False])
    """

    student: Float[Tensor, "rows candidates"]
    teacher: Float[Tensor, "rows candidates"] | None = None
    mask: Bool[Tensor, "rows candidates"] | None = None
    labels: Int[Tensor, " rows"] | None = None
    progress: float = 0.0
    seeds: Int[Tensor, " rows"] | torch.Generator | None = None
    level: Level = "row"
    lengths: Int[Tensor, "rows candidates"] | None = None
    reference: Float[Tensor, "rows candidates"] | None = None
    response: Int[Tensor, " rows"] | None = None
    sampled_log_probs: Float[Tensor, " rows"] | None = None
    features: Features | None = None
    votes: Votes | None = None
    tokens: ResponseTokens | None = None

    def counted(self) -> Bool[Tensor, " rows"]:
        """Rows with at least one candidate."""
        return checked_mask(self.mask, self.student).any(-1)

    def soft_weighted(self, losses: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The rows' losses of soft targets, times the factors of the votes if there are any."""
        weights = None if self.votes is None else self.votes.soft_weights
        return losses if weights is None else losses * weights

    def required_teacher(self) -> Float[Tensor, "rows candidates"]:
        if self.teacher is None:
            raise ValueError("this objective needs teacher scores")
        return self.teacher


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


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
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
    def couples_rows(self) -> bool:
        """Whether a row's loss depends on the other rows of its micro-batch."""
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
    def least_teacher(self) -> LeastTeacher:
        """The least that the teacher must give of a list. "order", "tiers": only the order of its scores is read."""
        return "scores"

    @property
    def least_candidates(self) -> int:
        """The fewest candidates on which the terms can be computed."""
        return 2

    def logged(self, progress: float) -> dict[str, float]:
        """Numbers that a trainer logs beside the terms, by name."""
        return {}

    @abstractmethod
    def terms(self, batch: Batch) -> tuple[Term, ...]:
        """The method's terms on a batch; weights may depend on batch.progress."""

    def head_options(self, progress: float) -> dict[str, Any] | None:  # noqa: B027
        """Options with which grkd.kernels.distillation_head computes this method; None: it cannot."""

    @property
    def head_names(self) -> tuple[str, str]:
        """Names in logs of the fused head's two terms, the pairs' and the divergence's: those that `terms` gives."""
        return "group_relative", "soft_target"

    def check_candidates(self, candidates: int) -> None:  # noqa: B027  (most methods take any number)
        """Raises UserError if the options do not fit this number of candidates: asked before a run starts."""

    def check_for_tokens(self) -> None:  # noqa: B027
        """Raises UserError if the options do not fit rows whose candidates are a vocabulary."""


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
    """Rows with a label that is not negative and, where there is a mask, one of the row's candidates.

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
