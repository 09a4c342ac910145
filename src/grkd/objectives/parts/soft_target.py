"""Soft targets: match the teacher's probabilities."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.losses import cross_entropy_of, generalized_jsd_of
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives.parts._base import AxisPart, batch_mean
from grkd.objectives.parts._score_pair import ScorePair

MatchedBy = Literal["cross_entropy", "forward_kl", "reverse_kl", "jsd"]

# beta of the generalised Jensen-Shannon divergence that each divergence is.
_BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}


@dataclass(frozen=True, kw_only=True)
class SoftTarget(AxisPart):
    """Soft targets: cross-entropy or divergence between the probabilities of teacher and student, in nats.

    cross_entropy: -sum_k p_T(k) log p_S(k), the paper's; it has forward_kl's gradient. forward_kl: KL(p_T || p_S).
    reverse_kl: KL(p_S || p_T). jsd: 1/2 KL(p_T || M) + 1/2 KL(p_S || M), M = (p_T + p_S) / 2.
    p: softmax(scores / temperature) over all candidates. over: batch: over the rows' shares of a candidate,
    p(k | a) / sum_b p(k | b): which row a candidate belongs to. Candidates with fewer than two rows are not counted;
    those to which the teacher gives probability 0 in every row count as 0.
    Source: Hinton et al., arXiv 1503.02531; arXiv 2504.20482 uses it without T^2. Over the batch: ours.
    """

    temperature: float = option(1.0, "temperature T of both softmaxes")
    t_squared: bool = option(False, "multiply by T^2, which keeps the gradient's size as T grows")
    divergence: MatchedBy = option("cross_entropy", "cross_entropy (as in the paper), forward_kl, reverse_kl or jsd")

    def check(self) -> None:
        above_zero(self.short_name(), self, "temperature")

    @property
    def term_name(self) -> str:
        name = self.short_name() if self.divergence == "cross_entropy" else self.divergence
        return name + ("_over_batch" if self.over == "batch" else "")

    def head_options(self) -> dict[str, Any] | None:
        if self.over == "batch":
            return None
        divergence = "soft_target" if self.divergence == "cross_entropy" else self.divergence
        shared = {"temperature": self.temperature, "t_squared": self.t_squared}
        return {"soft_scale": self.weight, "divergence": divergence, **shared}

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        if self.over == "batch":
            columns = scores.columns(self.temperature)
            exists = columns.exists
            losses = self._distance(*columns.log_probs(1.0), exists)
            possible = columns.teacher.amax(-1) > torch.finfo(losses.dtype).min
            losses = torch.where(possible, losses, 0.0)
            loss = batch_mean(losses, None if exists is None else exists.sum(-1) > 1)
        else:
            loss = self._distance(*scores.log_probs(self.temperature), scores.exists)
        return loss * self.temperature**2 if self.t_squared else loss

    def _distance(self, student: Tensor, teacher: Tensor, exists: Tensor | None) -> Tensor:
        if self.divergence == "cross_entropy":
            return cross_entropy_of(student, teacher, exists)
        return generalized_jsd_of(student, teacher, exists, beta=_BETAS[self.divergence])


PART = SoftTarget
