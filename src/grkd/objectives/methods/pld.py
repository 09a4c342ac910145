"""PLD and ListMLE: the Plackett-Luce likelihood of the teacher's full ranking."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses import masked_log_softmax
from grkd.objectives._base import LeastTeacher, Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, known, not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term, label_term, labelled


@dataclass(frozen=True, kw_only=True)
class PLD(Objective):
    """Plackett-Luce distillation: the likelihood of the teacher's ranking, each place weighted by its confidence.

    L = list_weight * sum_k w_k [ log sum_{i >= k} exp s_(i) - s_(k) ] + label_weight * CE(labels)
    (1), (2), ...: the true label, then the other classes by falling teacher score; all by teacher score if
    `label_first` is false. weight "teacher": w_k = softmax(t / temperature) of the class in place k; "uniform": 1.
    weight "uniform" without label_first is ListMLE. With label_first the first place is the labels' cross-entropy
    times w_1, so label_weight is 0 unless set. Equal teacher scores are ranked by index.
    With label_first rows without a label count in no term. Raises UserError for options out of range, ValueError
    if labels are missing.
    Source: Bassam et al., arXiv 2506.12542; ListMLE: Xia et al., ICML 2008.
    """

    learns_from = "the teacher's full order as a Plackett-Luce model; ListMLE as an option"
    minimises = (
        "Plackett-Luce likelihood of the label, then the teacher's order, each place weighted by the "
        "teacher's probability; `weight: uniform, label_first: false` is ListMLE"
    )
    source = "Bassam et al., arXiv 2506.12542; Xia et al., ICML 2008"

    weight: Literal["teacher", "uniform"] = option(
        "teacher", "weights of the places: teacher (its probabilities) or uniform"
    )
    label_first: bool = option(True, "the true label comes before the other classes")
    temperature: float = option(1.0, "temperature of the teacher's weights")
    list_weight: float = option(1.0, "weight of the list's likelihood")
    label_weight: float = option(0.0, "weight of the cross-entropy on hard labels")

    def __post_init__(self) -> None:
        known("pld", self, "weight")
        above_zero("pld", self, "temperature", "list_weight")
        not_negative("pld", self, "label_weight")

    @property
    def least_teacher(self) -> LeastTeacher:
        return "order" if self.weight == "uniform" else "scores"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        counted, teacher = batch.counted(), wide(batch.required_teacher().detach())
        mask = checked_mask(batch.mask, batch.student)
        order = teacher.masked_fill(~mask, -torch.inf)
        if self.label_first:
            counted = labelled(batch)
            assert batch.labels is not None
            order = order.scatter(-1, torch.where(counted, batch.labels, 0).unsqueeze(-1), torch.inf)
        rows = self._ranking(batch.student, teacher, order, mask)
        terms = (Term(name="ranking", weight=self.list_weight, rows=rows, counted=counted),)
        return (*terms, label_term(batch, self.label_weight)) if self.label_weight else terms

    def _ranking(
        self,
        student: Float[Tensor, "rows candidates"],
        teacher: Float[Tensor, "rows candidates"],
        order: Float[Tensor, "rows candidates"],
        mask: Bool[Tensor, "rows candidates"],
    ) -> Float[Tensor, " rows"]:
        places = order.argsort(dim=-1, descending=True, stable=True)
        scores = wide(student)
        # The most negative finite number: sums over nothing but masked candidates, which come last, stay finite.
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min).gather(-1, places)
        losses = scores.flip(-1).logcumsumexp(-1).flip(-1) - scores
        if self.weight == "teacher":
            losses = losses * masked_log_softmax(teacher, mask, self.temperature).exp().gather(-1, places)
        return torch.where(mask.gather(-1, places), losses, 0.0).sum(-1)


METHOD = PLD
