"""Margins: the student's score differences regressed on the teacher's, all pairs alike."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import checked_mask
from grkd.losses import Normalize, pair_margins
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives.parts._base import Part
from grkd.objectives.parts._score_pair import ScorePair


@dataclass(frozen=True, kw_only=True)
class Margins(Part):
    """(d - D)^2 / 8 over all pairs of candidates, in O(candidates): grkd.losses.pair_margins.

    The limit of tau^2 * soft pairs for large tau. Ties are learnt too: every row of two candidates counts.
    """

    tau: float = option(1.0, "scale of score differences")
    normalize: Normalize = option("pairs", "divisor of the sum: number of pairs or of candidates")

    def check(self) -> None:
        above_zero("margins", self, "tau")

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return pair_margins(scores.student, scores.teacher, mask=scores.mask, tau=self.tau, normalize=self.normalize)

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> tuple[Float[Tensor, "..."], Bool[Tensor, " rows"]]:
        return self.loss(scores, batch), checked_mask(scores.mask, scores.student).sum(-1) > 1


PART = Margins
