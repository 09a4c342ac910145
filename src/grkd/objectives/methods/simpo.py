"""SimPO: the best response of a group above its worst by a margin, without a reference model."""

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._ends import at, ends, present
from grkd.objectives._option_checks import above_zero, not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class SimPO(Objective):
    """Simple preference optimisation with the teacher as annotator: w its best response of the group, l its worst.

    L = -log sigmoid(beta * (s_w - s_l) - gamma) - sft_weight * s_w,  gamma = gamma_beta_ratio * beta
    s: mean token log-probability of a response under the student. A group whose responses all have the same score
    does not count. Raises UserError for options out of range.
    Source: Meng et al., arXiv 2405.14734, Eq. 6. Their settings: beta 10, ratio 0.5 (Gemma-2); 2.5, 0.55 (Llama-3).
    """

    learns_from = "the teacher's best response above its worst by a margin, without a reference model"
    minimises = "logistic loss: best response above the worst by a margin, in mean log-probability"
    source = "Meng et al., arXiv 2405.14734"
    trains_on = "ends"
    levels = ("response",)

    beta: float = option(2.0, "scale of mean log-probabilities")
    gamma_beta_ratio: float = option(0.5, "target margin divided by beta")
    sft_weight: float = option(0.0, "weight of the better response's mean log-probability")

    def __post_init__(self) -> None:
        above_zero("simpo", self, "beta")
        not_negative("simpo", self, "gamma_beta_ratio", "sft_weight")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        pair, scores = ends(batch), present(batch, batch.student)
        best = at(scores, pair.best)
        margin = self.beta * (best - at(scores, pair.worst) - self.gamma_beta_ratio)
        terms: tuple[Term, ...] = (Term(name="preference", weight=1.0, rows=-logsigmoid(margin), counted=pair.counted),)
        if self.sft_weight:
            terms += (Term(name="best_response", weight=self.sft_weight, rows=-best, counted=pair.counted),)
        return terms


METHOD = SimPO
