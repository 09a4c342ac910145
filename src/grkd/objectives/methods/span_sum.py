"""Span sums: match the probability of each span of text, summed over each model's own tokens."""

from dataclasses import dataclass

import torch

from grkd.groups import checked_mask
from grkd.losses import masked_log_softmax
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._terms import Term, labelled

_MOST = -1e-6  # nats: log of a probability whose complement has a finite logarithm


@dataclass(frozen=True, kw_only=True)
class SpanSum(Objective):
    """Likelihood of spans: binary cross-entropy between teacher and student for "this span" against "any other".

    s = sum of the log-probabilities of a span's tokens, P = exp(s / temperature)
    L = -P_T log P_S - (1 - P_T) log(1 - P_S), nats per span
    With one vocabulary a span is a token. With two it is the text between positions at which a token ends in both.
    Rows without a label are left out. Raises UserError for temperature <= 0.
    Source: Minixhofer et al., arXiv 2503.20083 (approximate likelihood matching, the binarised divergence).
    """

    learns_from = "the teacher's probability of the same text; works across vocabularies"
    minimises = "cross-entropy of a span against any other"
    source = "Minixhofer et al., arXiv 2503.20083"
    across_vocabularies = "spans"

    temperature: float = option(1.0, "divide the log-probabilities of spans by this")

    def __post_init__(self) -> None:
        above_zero("span_sum", self, "temperature")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        exists, counted = checked_mask(batch.mask, batch.student), labelled(batch)
        assert batch.labels is not None
        own = torch.where(counted, batch.labels, 0).unsqueeze(-1)
        student, teacher = (
            (masked_log_softmax(scores, exists, 1.0).gather(-1, own).squeeze(-1) / self.temperature).clamp_max(_MOST)
            for scores in (batch.student, batch.required_teacher().detach())
        )
        target = teacher.exp()
        rows = -target * student - (1 - target) * torch.log(-torch.expm1(student))
        return (Term(name="span_sum", weight=1.0, rows=torch.where(counted, rows, 0.0), counted=counted),)


METHOD = SpanSum
