"""Soft targets of z-scores."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from grkd.objectives._batch import Batch
from grkd.objectives.parts._score_pair import ScorePair
from grkd.objectives.parts.soft_target import SoftTarget


@dataclass(frozen=True, kw_only=True)
class ZScoreSoftTarget(SoftTarget):
    """Soft targets of z-scores over each row's candidates (logit standardisation, arXiv 2403.01427)."""

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return super().loss(scores.z_scores(), batch)


PART = ZScoreSoftTarget
