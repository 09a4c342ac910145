"""Pairs of z-scores."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from grkd.objectives._batch import Batch
from grkd.objectives.parts._score_pair import ScorePair
from grkd.objectives.parts.pairs import Pairs


@dataclass(frozen=True, kw_only=True)
class ZScorePairs(Pairs):
    """Pairs of z-scores over each row's candidates: the shape of the scores matters, not their scale."""

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> tuple[Float[Tensor, "..."], Bool[Tensor, " rows"]]:
        return super().rows_and_counted(scores.z_scores(), batch)


PART = ZScorePairs
