"""The pair term of grkd: which form computes it, and pairs across a batch."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import Group, checked_mask, has_pair, wide
from grkd.kernels.all_pairs import all_pairs
from grkd.kernels.weighted_pairs import weighted_pairs
from grkd.losses import Normalize, forward_kl, masked_log_softmax, pair_margins, pearson_distance, rank_discount

PairTarget = Literal["hard", "soft", "margin"]
PairWeight = Literal["uniform", "probability_gap", "rank"]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """A batch's scores on both sides, and their log-probabilities, which several terms read: made once a temperature.

    On a GPU a small classifier's loss is all launches; the gradient of a second log_softmax costs as many again.
    """

    student: Float[Tensor, "rows candidates"]
    teacher: Float[Tensor, "rows candidates"]
    mask: Bool[Tensor, "rows candidates"] | None = None
    _made: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def exists(self) -> Bool[Tensor, "rows candidates"] | None:
        """The mask, checked. None stays None: without one the forms have less to do."""
        return None if self.mask is None else checked_mask(self.mask, self.student)

    def log_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of student and teacher."""
        if temperature not in self._made:
            student, teacher = wide(self.student), wide(self.teacher.detach())
            self._made[temperature] = (
                masked_log_softmax(student, self.exists, temperature),
                masked_log_softmax(teacher, self.exists, temperature),
            )
        return self._made[temperature]


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """How the pairs of a group are compared; grkd.losses.weighted_pairs has the formulas.

    pair_weight: w_ij = |v_i - v_j|. "uniform": 1. "probability_gap": v = p_T = softmax(t / temperature) over all of the
    row's candidates. "rank": v_i = 1 / log2(1 + rank of i in the group).
    """

    tau: float
    pair_target: PairTarget
    pair_weight: PairWeight
    normalize: Normalize
    temperature: float

    def in_rows(self, sides: Sides, *, group: Group | None) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The loss over each row's group (None: all candidates), and which rows have a pair."""
        student, teacher, exists = sides.student, sides.teacher, sides.exists
        importance = sides.log_probs(self.temperature)[1].exp() if self.pair_weight == "probability_gap" else None
        if group is not None:
            student, teacher = student.gather(-1, group.indices), teacher.gather(-1, group.indices)
            importance = None if importance is None else importance.gather(-1, group.indices)
            exists = group.mask
        return self._loss(student, teacher, importance, exists), self._has_pair(teacher, exists)

    def across_rows(self, sides: Sides) -> Float[Tensor, ""]:
        """The same loss with rows and candidates changed over: pairs of rows within each candidate's column.

        Scores are log-probabilities at `temperature`, which compare between rows where logits do not; the probability
        gap of a pair is between the two rows. A mean over the columns with a pair; 0 where there is none.
        """
        (own, others), exists = sides.log_probs(self.temperature), sides.exists
        own, others, columns = own.T, others.T, None if exists is None else exists.T
        importance = others.exp() if self.pair_weight == "probability_gap" else None
        counted = self._has_pair(others, columns)
        return _mean(self._loss(own, others, importance, columns), counted)

    def relation(self, sides: Sides, *, temperature: float) -> Float[Tensor, ""]:
        """1 - Pearson's correlation of a candidate's probabilities over the rows, mean over columns.

        Margins of all pairs of rows, in O(rows): over z-scores x, y of n values, the mean over pairs of
        ((x_a - x_b) - (y_a - y_b))^2 is 4 n / (n - 1) * (1 - r). Columns with fewer than two rows are not counted.
        """
        (own, others), exists = sides.log_probs(temperature), sides.exists
        distance = pearson_distance(own.exp().T, others.exp().T, mask=None if exists is None else exists.T)
        return _mean(distance, None if exists is None else exists.sum(0) > 1)

    def relation_within(self, sides: Sides, *, temperature: float) -> Float[Tensor, " rows"]:
        """1 - Pearson's correlation of a row's probabilities over its candidates; 0 with fewer than two."""
        (own, others), exists = sides.log_probs(temperature), sides.exists
        return pearson_distance(own.exp(), others.exp(), mask=exists)

    def listwise(self, sides: Sides) -> Float[Tensor, ""]:
        """KL of rows' shares of a candidate, p(k | a) / sum_b p(k | b) at `temperature`, in nats, mean over columns.

        Soft targets with rows and candidates changed over: which rows a candidate belongs to, not how much of each
        row is its own. Columns with fewer than two rows are not counted.
        """
        (own, others), exists = sides.log_probs(self.temperature), sides.exists
        losses = forward_kl(own.T, others.T, mask=None if exists is None else exists.T)
        return _mean(losses, None if exists is None else exists.sum(0) > 1)

    def _loss(self, student: Tensor, teacher: Tensor, importance: Tensor | None, exists: Tensor | None) -> Tensor:
        if self.pair_weight == "uniform" and self.pair_target != "margin":
            return all_pairs(
                student, teacher, mask=exists, tau=self.tau, pair_target=self.pair_target, normalize=self.normalize
            )
        if self.pair_weight == "uniform":
            return pair_margins(student, teacher, mask=exists, tau=self.tau, normalize=self.normalize)
        if self.pair_weight == "rank":
            importance = rank_discount(teacher, mask=exists)
        assert importance is not None
        return weighted_pairs(
            student,
            teacher,
            importance=importance,
            mask=exists,
            tau=self.tau,
            pair_target=self.pair_target,
            normalize=self.normalize,
        )

    def _has_pair(self, teacher: Tensor, exists: Tensor | None) -> Tensor:
        # Margins of ties, 0, are learnt too where all pairs count the same.
        if self.pair_weight == "uniform" and self.pair_target == "margin":
            return checked_mask(exists, teacher).sum(-1) > 1
        return wide(teacher).amax(-1) > wide(teacher).amin(-1) if exists is None else has_pair(teacher, mask=exists)


def _mean(losses: Float[Tensor, " columns"], counted: Bool[Tensor, " columns"] | None) -> Float[Tensor, ""]:
    """Over the columns that count (None: all); 0 where there is none."""
    if counted is None:
        return losses.mean()
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)
