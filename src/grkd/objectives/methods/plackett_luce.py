"""Plackett-Luce: the exact likelihood of the teacher's order, including ties and unordered candidates."""

from dataclasses import dataclass

import torch

from grkd.errors import UserError
from grkd.groups import has_pair, wide
from grkd.losses import tiered_plackett_luce
from grkd.objectives._any_level import AnyLevel
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class PlackettLuce(AnyLevel):
    """Tie-aware Plackett-Luce on partial orders: tiers of candidates, such as a top five of 32.

    L = -log P(teacher's tiers | s / tau): losses.tiered_plackett_luce. The likelihood is summed over the
    orders within a tier, so a tie is no preference. Without ties and with top_k 0 it is ListMLE.
    level: response: s is the mean token log-probability of a response; set tau to .1 or so.
    Rows whose candidates are all tied do not count. Raises UserError for options out of range.
    Source: Plackett, 1975; ListMLE: Xia et al., ICML 2008; top k: Xia et al., NeurIPS 2009; ties added up: ours.
    """

    learns_from = "the teacher's order, full or partial, as a Plackett-Luce model with ties"
    minimises = "negative log-likelihood of the teacher's tiers, summed over the orders within a tier"
    source = "Xia et al., NeurIPS 2009; ties: ours"
    least_teacher = "tiers"

    tau: float = option(1.0, "divide the student's scores by this")
    top_k: int = option(0, "only tiers that begin among the first top_k places count; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("plackett_luce", self, "tau")
        if self.top_k < 0:
            raise UserError(f"plackett_luce: top_k must be 0 (all places) or more, got {self.top_k}")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        teacher = batch.required_teacher()
        rows = tiered_plackett_luce(wide(batch.student) / self.tau, teacher, mask=batch.mask, top_k=self.top_k or None)
        counted = has_pair(teacher, mask=batch.mask)
        return (Term(name="ranking", weight=1.0, rows=torch.where(counted, rows, 0.0), counted=counted),)


METHOD = PlackettLuce
