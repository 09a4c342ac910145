"""Correlation: match the margins of all pairs at once."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from grkd.losses import pearson_distance
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives.parts._base import AxisPart, batch_mean
from grkd.objectives.parts._score_pair import ScorePair


@dataclass(frozen=True, kw_only=True)
class Correlation(AxisPart):
    """1 - Pearson's correlation of probabilities: over the candidates of a row, or of a candidate over the batch.

    It is the loss of all margins in O(n): over z-scores x, y of n values, the mean over pairs of
    ((x_a - x_b) - (y_a - y_b))^2 is 4 n / (n - 1) * (1 - r). Lines with fewer than two values give 0.
    Source: Huang et al., arXiv 2205.10536 (its inter-class and intra-class terms).
    """

    temperature: float = option(1.0, "temperature of the probabilities")

    def check(self) -> None:
        above_zero(self.short_name(), self, "temperature")

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        if self.over == "candidates":
            student, teacher = scores.log_probs(self.temperature)
            return pearson_distance(student.exp(), teacher.exp(), mask=scores.exists)
        columns = scores.columns(self.temperature)
        exists = columns.exists
        losses = pearson_distance(columns.student.exp(), columns.teacher.exp(), mask=exists)
        return batch_mean(losses, None if exists is None else exists.sum(-1) > 1)


PART = Correlation
