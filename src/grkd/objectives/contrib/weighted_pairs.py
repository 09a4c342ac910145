"""Weighted pairs: pairs that do not all count the same."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import has_pair
from grkd.kernels.weighted_pairs import weighted_pairs
from grkd.losses import HARD, PAIR_FORMS, Normalize, PairForm, rank_discount
from grkd.objectives._base import LeastTeacher
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives.parts._score_pair import ScorePair
from grkd.objectives.parts.pairs import GroupPart, form_of


@dataclass(frozen=True, kw_only=True)
class WeightedPairs(GroupPart):
    """Pairs with a weight w_ij = |v_i - v_j| each (grkd.losses.weighted_pairs).

    by "probability_gap": v = softmax(t / temperature) over all of the row's candidates, so that pairs among the
    hopeless count little. "rank": v_i = 1 / log2(1 + rank of i in the group): what DCG loses if the two change places.
    """

    by: Literal["probability_gap", "rank"] = option(
        "probability_gap", "weight of a pair: gap of the teacher's probabilities or of DCG's rank discounts"
    )
    tau: float = option(1.0, "scale of score differences")
    target: str | PairForm = option("hard", "form of a pair: hard, soft, margin or your own", choices=tuple(PAIR_FORMS))
    normalize: Normalize = option("pairs", "divisor of the sum: sum of the weights or number of candidates")
    temperature: float = option(1.0, "temperature of the probabilities of probability_gap")

    def check(self) -> None:
        super().check()
        above_zero("weighted_pairs", self, "tau", "temperature")
        form_of("weighted_pairs", self.target)

    @property
    def least_teacher(self) -> LeastTeacher:
        order_alone = self.by == "rank" and form_of("weighted_pairs", self.target) is HARD and self.group != "sample"
        return "tiers" if order_alone else "scores"

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return self.rows_and_counted(scores, batch)[0]

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> tuple[Float[Tensor, "..."], Bool[Tensor, " rows"]]:
        student, teacher, exists = scores.student, scores.teacher, scores.exists
        group = self.chosen(batch)
        importance = scores.log_probs(self.temperature)[1].exp() if self.by == "probability_gap" else None
        if group is not None:
            student, teacher = student.gather(-1, group.indices), teacher.gather(-1, group.indices)
            importance = None if importance is None else importance.gather(-1, group.indices)
            exists = group.mask
        losses = weighted_pairs(
            student,
            teacher,
            importance=rank_discount(teacher, mask=exists) if importance is None else importance,
            mask=exists,
            tau=self.tau,
            pair_target=form_of("weighted_pairs", self.target),
            normalize=self.normalize,
        )
        return losses, has_pair(teacher, mask=exists)


PART = WeightedPairs
