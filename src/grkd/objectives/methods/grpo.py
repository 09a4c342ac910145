"""GRPO: a policy gradient with group-relative advantages, optionally with a KL to the teacher."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask, wide
from grkd.losses import generalized_jsd
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch, Level, ResponseTokens
from grkd.objectives._option_checks import not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term

# Keeps a group of nearly equal scores from enormous advantages.
_EPSILON = 1e-4


@dataclass(frozen=True, kw_only=True)
class GRPO(Objective):
    """Group relative policy optimisation on responses sampled in training and scored by rankers.

    A_k = (r_k - mean r) / (std r + 1e-4) over the group (std with n - 1); without the division for scale "none"
    ratio_t = p_S(y_t) / p_old(y_t), p_old: the student that sampled the response
    L_t = -min(ratio_t A, clip(ratio_t, 1 - clip_low, 1 + clip_high) A)
    normalize "sequence": mean over responses of the mean over their tokens. "token": sum over all tokens of the step
    divided by their number, so that long responses weigh more.
    teacher_kl: weight of KL(p_S || p_T) over the whole vocabulary at every token, in nats.
    A response without a score (no ranker has an opinion) has no advantage. A group of equal scores has none either.
    Raises UserError for options out of range, ValueError for a batch without the tokens of its responses.
    Source: Shao et al., arXiv 2402.03300, Eq. 3; "token": Yu et al., arXiv 2503.14476; scale "none": Liu et al.,
    arXiv 2503.20783. The KL is exact, and to the teacher instead of the reference model.
    """

    learns_from = "advantages of the student's own responses within a group, by any ranker (on-policy)"
    minimises = "clipped policy gradient + teacher_kl * KL(p_S || p_T)"
    source = "arXiv 2402.03300"
    on_policy = 1.0
    head_names = ("group_relative", "teacher_kl")
    least_of_responses = "scores"

    clip_low: float = option(0.2, "how far a token's ratio may fall below 1")
    clip_high: float = option(0.2, "how far a token's ratio may rise above 1")
    scale: Literal["group", "none"] = option("group", "divide advantages by the group's standard deviation, or not")
    normalize: Literal["sequence", "token"] = option("sequence", "mean over responses, or over all tokens of the step")
    teacher_kl: float = option(0.0, "weight of the reverse KL to the teacher at every token")

    def __post_init__(self) -> None:
        not_negative("grpo", self, "clip_high", "teacher_kl")
        if not 0 <= self.clip_low < 1:
            raise UserError(f"grpo: clip_low must be 0 or more and below 1, got {self.clip_low}")

    @property
    def levels(self) -> tuple[Level, ...]:
        return ("row", "response") if self.teacher_kl else ("response",)

    def head_options(self, progress: float) -> dict[str, Any] | None:
        if not self.teacher_kl:
            return None
        return {"alpha": 0.0, "divergence": "reverse_kl", "soft_scale": self.teacher_kl}

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        if batch.level == "row":
            rows = generalized_jsd(batch.student, batch.required_teacher(), mask=batch.mask, beta=1.0)
            return (Term(name="teacher_kl", weight=self.teacher_kl, rows=rows, counted=batch.counted()),)
        if batch.tokens is None:
            raise ValueError("grpo needs the tokens of its responses")
        exists = checked_mask(batch.mask, batch.student)
        weights = advantages(wide(batch.required_teacher().detach()), exists, scale=self.scale == "group")
        sums, lengths = self._sums(batch.tokens, weights)
        if self.normalize == "token":
            tokens = lengths.sum(-1)
            return (Term(name="policy", weight=1.0, rows=sums.sum(-1), counted=batch.counted(), tokens=tokens),)
        means = torch.where(exists, sums / lengths.clamp_min(1), 0.0).sum(-1) / exists.sum(-1).clamp_min(1)
        return (Term(name="policy", weight=1.0, rows=means, counted=batch.counted()),)

    def _sums(
        self, tokens: ResponseTokens, weights: Float[Tensor, "rows candidates"]
    ) -> tuple[Float[Tensor, "rows candidates"], Float[Tensor, "rows candidates"]]:
        """Of each response, the sum of its tokens' losses and its number of tokens."""
        log_probs = tokens.log_probs
        old = log_probs.detach() if tokens.sampled_log_probs is None else tokens.sampled_log_probs.to(log_probs.dtype)
        old = torch.where(old.isnan(), log_probs.detach(), old)
        advantage = weights.to(log_probs.dtype).flatten()[tokens.place]
        ratio = (log_probs - old).exp()
        losses = -torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantage)
        shape = weights.shape
        sums = losses.new_zeros(weights.numel()).index_add(0, tokens.place, losses)
        lengths = losses.new_zeros(weights.numel()).index_add(0, tokens.place, torch.ones_like(losses))
        return sums.view(shape), lengths.view(shape)


def advantages(
    scores: Float[Tensor, "rows candidates"], exists: Bool[Tensor, "rows candidates"], *, scale: bool
) -> Float[Tensor, "rows candidates"]:
    """Scores less the group's mean, over its standard deviation if `scale`; 0 outside `exists`."""
    values = torch.where(exists, scores, 0.0)
    count = exists.sum(-1, keepdim=True)
    centred = torch.where(exists, values - values.sum(-1, keepdim=True) / count.clamp_min(1), 0.0)
    if not scale:
        return centred
    deviation = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return centred / (deviation + _EPSILON)


METHOD = GRPO
