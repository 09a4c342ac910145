"""Advantage: pairs weighted by the teacher's gap and by how plausible both candidates are to the student."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from grkd.losses import expected_disagreement
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives.parts._base import Part
from grkd.objectives.parts._score_pair import ScorePair


@dataclass(frozen=True, kw_only=True)
class Advantage(Part):
    """The probability that a sample of the student and one of the teacher differ (grkd.losses.expected_disagreement).

    L_adv = 1 - sum_k q_k p_k,  q = softmax(s / T), p = softmax(t / T). Its gradient is each candidate's advantage over
    its group. Its minimum puts all probability on the teacher's best candidate: it needs an anchor.
    """

    temperature: float = option(1.0, "temperature T of both softmaxes")

    def check(self) -> None:
        above_zero("advantage", self, "temperature")

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return expected_disagreement(scores.student, scores.teacher, mask=scores.mask, temperature=self.temperature)


PART = Advantage
