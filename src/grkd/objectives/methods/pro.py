"""PRO: at every rank of a group, the response above all worse ones."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import checked_mask, pairs, wide
from grkd.objectives._base import LeastTeacher, Objective
from grkd.objectives._batch import Batch
from grkd.objectives._ends import at, ends, present
from grkd.objectives._option_checks import known, not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class PRO(Objective):
    """Preference ranking optimisation with the teacher's ranking of the whole group.

    L = -sum_k log [ exp(s_k / T_kk) / (exp(s_k / T_kk) + sum_{i: t_i < t_k} exp(s_i / T_ki)) ]
        - sft_weight * (n - 1)^2 * log p_S(y_1)
    s: mean token log-probability under the student; t: the teacher's score; y_1 its best response; n: responses of the
    group. log p_S(y_1): the "sum" over tokens (the paper's), or their "mean".
    T: 1, or with reward_temperatures 1 / T_ki = t_k - t_i and T_kk the least of them: far worse responses are penalised
    more. The paper's rewards differ by about one; the calibrated rewards here by much less, so it is off by default.
    Of equal scores neither is above the other (the paper has none). A group without a pair does not count.
    Raises UserError for options out of range, ValueError for a batch without lengths if they are needed.
    Source: Song et al., arXiv 2306.17492; the factor 0.05 (n - 1)^2 is theirs.
    """

    learns_from = "each response against all worse ones, and the best one's tokens"
    minimises = "at every rank, softmax loss of the response against all worse ones; plus cross-entropy on the best"
    source = "Song et al., arXiv 2306.17492"
    levels = ("response",)

    sft_weight: float = option(0.05, "weight of the best response's tokens")
    sft_log_prob: Literal["sum", "mean"] = option(
        "sum", "log-probability of the best response: sum or mean over its tokens"
    )
    reward_temperatures: bool = option(False, "penalise far worse responses more")

    def __post_init__(self) -> None:
        known("pro", self, "sft_log_prob")
        not_negative("pro", self, "sft_weight")

    @property
    def least_of_responses(self) -> LeastTeacher:
        return "scores" if self.reward_temperatures else "tiers"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        group, scores = ends(batch), present(batch, batch.student)
        ranking = self._ranking(scores, wide(batch.required_teacher().detach()).to(scores.dtype), batch.mask)
        terms: tuple[Term, ...] = (Term(name="ranking", weight=1.0, rows=ranking, counted=group.counted),)
        if self.sft_weight:
            log_prob = at(scores, group.best)
            if self.sft_log_prob == "sum":
                if batch.lengths is None:
                    raise ValueError("pro needs the lengths of responses")
                log_prob = log_prob * at(present(batch, batch.lengths), group.best)
            others = (checked_mask(batch.mask, scores).sum(-1) - 1).clamp_min(0)
            rows = -log_prob * others**2
            terms += (Term(name="best_response", weight=self.sft_weight, rows=rows, counted=group.counted),)
        return terms

    def _ranking(
        self, scores: Float[Tensor, "rows candidates"], teacher: Float[Tensor, "rows candidates"], mask: Tensor | None
    ) -> Float[Tensor, " rows"]:
        above = pairs(teacher, mask=mask)  # [rows, k, i]: k above i
        own, others = scores, scores.unsqueeze(-2).expand(above.shape)
        if self.reward_temperatures:
            gap = torch.where(above, teacher.unsqueeze(-1) - teacher.unsqueeze(-2), 0.0)
            own, others = own * gap.amax(-1), others * gap
        # The most negative finite number instead of -inf: the last rank has nothing below it.
        worse = torch.where(above, others, torch.finfo(scores.dtype).min).logsumexp(-1)
        return torch.where(above.any(-1), torch.logaddexp(own, worse) - own, 0.0).sum(-1)


METHOD = PRO
