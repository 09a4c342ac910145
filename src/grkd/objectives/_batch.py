"""What an objective sees: rows of scores, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.groups import checked_mask, wide

# What a row is: a class example or a token ("row"), or a prompt whose candidates are responses ("response").
Level = Literal["row", "response"]


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Targets of pairs that were given from outside: opinions of rankers, tiers (`grkd.losses.voted_pairs`).

    Parameters
    ----------
    targets : Tensor [rows, candidates, candidates]
        q_ij in [0, 1], the share of the opinions that put candidate i above j; entries with i < j are read.
    weights : Tensor [rows, candidates, candidates], optional
        How many opinions, or how much they count; 0: the pair is not compared. None: 1 for every pair.
    """

    targets: Float[Tensor, "rows candidates candidates"]
    weights: Float[Tensor, "rows candidates candidates"] | None = None


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """Several teachers' scores of the same candidates, of which votes on the pairs of any group are counted.

    Parameters
    ----------
    scores : sequence of Tensor [rows, candidates]
        One per teacher: log-probabilities, nats. Their scales need not agree.
    weights : Tensor [teachers, rows]
        Weight of each teacher's vote in each row; 0: it was not asked.
    unanimous : bool
        Pairs on which two teachers differ are not compared: what is left is a partial order.

    Examples
    --------
    >>> import torch
    >>> from grkd.objectives import Opinions
    >>> one, other = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    >>> two = Opinions(scores=(one, other), weights=torch.tensor([[3.0], [1.0]]))
    >>> two.votes().targets[0, 0, 1]
    tensor(0.7500)
    """

    scores: Sequence[Float[Tensor, "rows candidates"]]
    weights: Float[Tensor, "teachers rows"]
    unanimous: bool = False

    def pooled(self) -> Float[Tensor, "rows candidates"]:
        """The weighted mean of the teachers' log-probabilities, up to a constant per row."""
        shares = (self.weights / self.weights.sum(0)).unsqueeze(-1)
        return torch.stack([share * wide(own) for share, own in zip(shares, self.scores, strict=True)]).sum(0)

    def votes(self, group: Int[Tensor, "rows size"] | None = None) -> Votes:
        """The votes on every pair of candidates, or of those of a group: q_ij = sum_t w_t [t_i > t_j] / w_ij.

        w_ij is the weight of the teachers that put i and j in an order; equal scores are an abstention.
        """
        above: Tensor | float = 0.0
        below: Tensor | float = 0.0
        for weight, scores in zip(self.weights, self.scores, strict=True):
            own = scores if group is None else scores.gather(-1, group)
            first, second = own.unsqueeze(-1), own.unsqueeze(-2)
            vote = weight.to(wide(own).dtype)[:, None, None]
            above, below = above + vote * (first > second), below + vote * (first < second)
        assert isinstance(above, Tensor)
        assert isinstance(below, Tensor)
        total = above + below
        counted = torch.where((above > 0) & (below > 0), 0.0, total) if self.unanimous else total
        return Votes(targets=above / total.clamp_min(torch.finfo(total.dtype).tiny), weights=counted)


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
        The true candidate of each row, if known.
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
    votes : Votes or Opinions, optional
        Targets of pairs of candidates, in place of those that the teacher's scores would give; or several teachers'
        scores, whose votes give them.
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
    votes: Votes | Opinions | None = None
    tokens: ResponseTokens | None = None

    def counted(self) -> Bool[Tensor, " rows"]:
        """Rows with at least one candidate."""
        return checked_mask(self.mask, self.student).any(-1)

    def required_teacher(self) -> Float[Tensor, "rows candidates"]:
        if self.teacher is None:
            raise ValueError("this objective needs teacher scores")
        return self.teacher
