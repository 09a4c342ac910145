"""ULD: match sorted probabilities, so that the vocabularies need not be related."""

from dataclasses import dataclass

from grkd.groups import checked_mask
from grkd.losses import masked_log_softmax
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class ULD(Objective):
    """Universal logit distillation: the L1 distance of the sorted probabilities, whatever the tokens are.

    L = sum_i |p_S(i) - p_T(i)|, p(i) the i-th largest probability; in [0, 2]. A shorter list is padded with zeros.
    Raises UserError for temperature <= 0.
    Source: Boizard et al., arXiv 2402.12030, equation 5 (the Wasserstein distance with equal costs), without its
    cross-entropy on the data.
    """

    learns_from = "the teacher's sorted probabilities; works across vocabularies"
    minimises = "L1 distance of sorted probabilities"
    source = "Boizard et al., arXiv 2402.12030"
    across_vocabularies = "whole"

    temperature: float = option(1.0, "temperature of both softmaxes")

    def __post_init__(self) -> None:
        above_zero("uld", self, "temperature")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        exists = checked_mask(batch.mask, batch.student)
        student, teacher = (
            masked_log_softmax(scores, exists, self.temperature).exp().masked_fill(~exists, 0.0)
            for scores in (batch.student, batch.required_teacher().detach())
        )
        rows = (student.sort(-1, descending=True).values - teacher.sort(-1, descending=True).values).abs().sum(-1)
        return (Term(name="uld", weight=1.0, rows=rows, counted=batch.counted()),)


METHOD = ULD
