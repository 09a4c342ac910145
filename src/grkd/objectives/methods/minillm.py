"""MiniLLM: reverse KL of whole responses by policy gradient, on responses sampled during training."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask
from grkd.losses import masked_log_softmax
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import known, not_negative
from grkd.objectives._options import option
from grkd.objectives._terms import Term

# How far a weight may leave 1 before a token's long-term part is let go: PPO's epsilon.
_CLIP = 0.2


@dataclass(frozen=True, kw_only=True)
class MiniLLM(Objective):
    """Reverse KL(p_S || p_T) of responses y ~ p~ = teacher_mix p_T + (1 - teacher_mix) p_S, token by token.

    gradient of a token t = w_t grad KL_t - w_t R_(t+1) grad log p_S(y_t)         (single step, then long term)
    KL_t = sum_v p_S(v) (log p_S(v) - log p_T(v)),  r_t = log p_T(y_t) - log p_S(y_t)
    R_(t+1) = sum of r over the tokens after t; their mean if length_normalize (0 after the last token)
    w_t = p_S(y_t) / p~(y_t)
    The value of a row is always w_t KL_t, the reverse KL in nats; the other terms only contribute gradient.

    single_step: false replaces both parts by R_t grad log p_S(y_t), where R_t includes the token's own reward.
    clip: the long-term part is -min(w R, clip(w, 0.8, 1.2) R), without gradient where the second is less.
    importance: "token" is the paper's w_t, an approximation that is exact for teacher_mix 0. "sequence" weighs each r_u
    by the product of the ratios up to u (and KL_t by that up to t), which is unbiased, with a variance that grows with
    the length. Without sampled log-probabilities (stored responses) all weights are 1.
    long_term_weight: weight of the long-term part; at 0 tokens are independent.
    Raises UserError for options out of range, ValueError for a batch without labels or response numbers.
    Source: Gu et al., arXiv 2306.08543, Eq. 2 to 7, without the term on a pre-training corpus. Eq. 6 prints the mean of
    T - t rewards with the divisor T - t - 1; Eq. 2 has R_t - 1, whose constant changes no expectation. clip is PPO's,
    as in the authors' code.
    """

    learns_from = "reverse KL by policy gradient, on responses sampled from a mixture of student and teacher"
    minimises = (
        "reverse KL of responses by policy gradient; responses are sampled from a mixture of student and teacher"
    )
    source = "Gu et al., arXiv 2306.08543"
    couples_rows = True
    on_policy = 1.0

    teacher_mix: float = option(0.2, "weight of the teacher in the distribution that responses are sampled from")
    length_normalize: bool = option(True, "use the mean instead of the sum of later rewards")
    single_step: bool = option(True, "use the exact gradient of each token's own KL")
    clip: bool = option(True, "clip importance weights as PPO does")
    importance: Literal["token", "sequence"] = option(
        "token", "importance weight: the token's own ratio, or (sequence) the product of ratios up to it"
    )
    long_term_weight: float = option(1.0, "weight of the reward from later tokens")

    def __post_init__(self) -> None:
        known("minillm", self, "importance")
        not_negative("minillm", self, "long_term_weight")
        if not 0 <= self.teacher_mix < 1:
            raise UserError(f"minillm: teacher_mix must be 0 or more and below 1, got {self.teacher_mix}")
        if self.clip and self.importance == "sequence":
            raise UserError("minillm: clip works on the weights of single tokens; set clip: false or importance: token")
        if not (self.single_step or self.long_term_weight):
            raise UserError("minillm: long_term_weight 0 with single_step false leaves nothing; change one")

    @property
    def teacher_mixed_in(self) -> float:
        return self.teacher_mix

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        tokens = _tokens(batch)
        if self.importance == "sequence":
            log_ratio = tokens.place.sums_up_to(tokens.log_ratio.detach())
            weight = log_ratio.exp()
            rewards = self._returns(tokens, weight * tokens.reward)
            long_term = -rewards * tokens.log_prob
        else:
            ratio = tokens.log_ratio.exp()
            weight = ratio.detach()
            rewards = self._returns(tokens, tokens.reward)
            long_term = -rewards * ratio
            if self.clip:
                long_term = torch.maximum(long_term, -rewards * ratio.clamp(1 - _CLIP, 1 + _CLIP))
        single = weight * tokens.reverse_kl
        rows = single if self.single_step else single.detach()
        # Gradient without a value, so that the loss stays what it is called.
        rows = rows + self.long_term_weight * (long_term - long_term.detach())
        return (Term(name="reverse_kl", weight=1.0, rows=rows, counted=tokens.counted),)

    def _returns(self, tokens: "_Tokens", rewards: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """R of every token: of what comes after it, or from it on without the single step."""
        own = not self.single_step
        total = tokens.place.sums_from(rewards, own=own)
        if not self.length_normalize:
            return total
        return total / tokens.place.sums_from(tokens.counted.to(rewards.dtype), own=own).clamp_min(1)


@dataclass(frozen=True)
class _Place:
    """Where each row stands in a table with a response a line; the order of a response's rows is that of its tokens."""

    response: Int[Tensor, " rows"]
    column: Int[Tensor, " rows"]
    size: tuple[int, int]  # of the table; read once, since every read waits for the device

    @classmethod
    def of(cls, response: Int[Tensor, " rows"]) -> "_Place":
        order = response.argsort(stable=True)
        ordered = response[order]
        column = torch.empty_like(order)
        column[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
        lines, columns = torch.stack([response.max(), column.max()]).tolist()
        return cls(response, column, (lines + 1, columns + 1))

    def sums_from(self, values: Float[Tensor, " rows"], *, own: bool) -> Float[Tensor, " rows"]:
        """Of each row, the sum over the later rows of its response, with or without its own."""
        sums = self._table(values).flip(-1).cumsum(-1).flip(-1)
        if not own:
            sums = torch.nn.functional.pad(sums[:, 1:], (0, 1))
        return sums[self.response, self.column]

    def sums_up_to(self, values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Of each row, the sum over the earlier rows of its response and itself."""
        return self._table(values).cumsum(-1)[self.response, self.column]

    def _table(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.size).index_put((self.response, self.column), values)


@dataclass(frozen=True)
class _Tokens:
    """What is known of each token; rows that do not count have zeros and are as if they were not there."""

    counted: Bool[Tensor, " rows"]
    reverse_kl: Float[Tensor, " rows"]
    log_prob: Float[Tensor, " rows"]
    log_ratio: Float[Tensor, " rows"]
    reward: Float[Tensor, " rows"]
    place: _Place


def _tokens(batch: Batch) -> _Tokens:
    scores = batch.required_teacher()
    if batch.labels is None or batch.response is None:
        raise ValueError("minillm needs the tokens (labels) of responses and which response each belongs to")
    exists = checked_mask(batch.mask, batch.student)
    counted = exists.any(-1) & (batch.labels >= 0)
    student, teacher = (masked_log_softmax(part, exists, 1.0) for part in (batch.student, scores.detach()))
    reverse_kl = torch.where(exists, student.exp() * (student - teacher), 0.0).sum(-1)
    index = torch.where(counted, batch.labels, 0).unsqueeze(-1)
    log_prob, teacher_log_prob = (
        torch.where(counted, part.gather(-1, index).squeeze(-1), 0.0) for part in (student, teacher)
    )
    drawn = log_prob.detach() if batch.sampled_log_probs is None else batch.sampled_log_probs.to(log_prob.dtype)
    return _Tokens(
        counted=counted,
        reverse_kl=torch.where(counted, reverse_kl, 0.0),
        log_prob=log_prob,
        log_ratio=torch.where(counted, log_prob - drawn, 0.0),
        reward=(teacher_log_prob - log_prob).detach(),
        place=_Place.of(batch.response),
    )


METHOD = MiniLLM
