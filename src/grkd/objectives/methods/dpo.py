"""DPO: the best response of a group above its worst, relative to the student before training."""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from grkd.errors import UserError
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._ends import at, ends, present
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class DPO(Objective):
    """Direct preference optimisation with the teacher as annotator: w its best response of the group, l its worst.

    r(y) = beta * (log p_S(y | x) - log p_ref(y | x)), summed over tokens;  d = r(w) - r(l)
    L = -(1 - label_smoothing) log sigmoid(d) - label_smoothing log sigmoid(-d)
    p_ref: the student before training. A group whose responses all have the same score does not count.
    Raises UserError for options out of range, ValueError for a batch without lengths or reference log-probabilities.
    Source: Rafailov et al., arXiv 2305.18290, Eq. 7; label_smoothing: Mitchell, "A note on DPO with noisy preferences".
    """

    learns_from = "the teacher's best response against its worst, relative to the student before training"
    minimises = "logistic loss: best response above the worst (by the teacher), relative to the student before training"
    source = "Rafailov et al., arXiv 2305.18290"
    needs_reference = True
    trains_on = "ends"
    levels = ("response",)

    beta: float = option(0.1, "scale of log-probability ratios")
    label_smoothing: float = option(0.0, "probability that a preference is wrong, below 0.5")

    def __post_init__(self) -> None:
        above_zero("dpo", self, "beta")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"dpo: label_smoothing must be 0 or more and below 0.5, got {self.label_smoothing}")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        pair = ends(batch)
        if batch.reference is None:
            raise ValueError("dpo needs reference log-probabilities")
        if batch.lengths is None:
            raise ValueError("dpo needs the lengths of responses")
        log_ratio = (present(batch, batch.student) - present(batch, batch.reference)) * present(batch, batch.lengths)
        margin = self.beta * (at(log_ratio, pair.best) - at(log_ratio, pair.worst))
        rows = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return (Term(name="preference", weight=1.0, rows=rows, counted=pair.counted),)


METHOD = DPO
