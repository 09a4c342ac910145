"""Correlation of z-scores' probabilities."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from grkd.objectives._batch import Batch
from grkd.objectives.parts._score_pair import ScorePair
from grkd.objectives.parts.correlation import Correlation


@dataclass(frozen=True, kw_only=True)
class ZScoreCorrelation(Correlation):
    """Correlation of the probabilities of z-scores over each row's candidates."""

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return super().loss(scores.z_scores(), batch)


PART = ZScoreCorrelation
