"""GKD: a divergence between token distributions, partly on the student's own responses."""

from dataclasses import dataclass
from typing import Any

from grkd.errors import UserError
from grkd.losses import generalized_jsd
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._teacher_temperature import sharpened
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class GKD(Objective):
    """Generalised knowledge distillation: the generalised Jensen-Shannon divergence at every token of the response.

    L = beta KL(p_T || M) + (1 - beta) KL(p_S || M),  M = beta p_T + (1 - beta) p_S, softmaxes at `temperature`
    beta 0 is the forward KL(p_T || p_S), beta 1 the reverse KL(p_S || p_T).
    on_policy_fraction: fraction of prompts (lambda in the paper) with responses sampled during training; no
    gradient flows through the sampling. The other prompts keep their stored responses.
    teacher_temperature: divides the teacher's scores before anything else.
    Raises UserError for options out of range.
    Source: Agarwal et al., arXiv 2306.13649, Algorithm 1.
    """

    learns_from = "a divergence to the teacher, on stored responses and on the student's own (on-policy)"
    minimises = "generalised Jensen-Shannon divergence per token, on stored responses and on the student's own"
    source = "Agarwal et al., arXiv 2306.13649"
    head_names = ("group_relative", "generalized_jsd")

    beta: float = option(0.5, "0: forward KL; 1: reverse KL; between: generalised Jensen-Shannon divergence")
    temperature: float = option(1.0, "temperature of both softmaxes")
    on_policy_fraction: float = option(0.5, "share of prompts trained on fresh responses of the student")
    teacher_temperature: float = option(1.0, "divide the teacher's scores by this before anything else")

    def __post_init__(self) -> None:
        above_zero("gkd", self, "temperature", "teacher_temperature")
        for name in ("beta", "on_policy_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"gkd: {name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def on_policy(self) -> float:
        return self.on_policy_fraction

    def head_options(self, progress: float) -> dict[str, Any] | None:
        if self.teacher_temperature != 1.0:
            return None
        shared = {"alpha": 0.0, "temperature": self.temperature}
        if self.beta in (0, 1):
            return {**shared, "divergence": "reverse_kl" if self.beta else "forward_kl"}
        return {**shared, "divergence": "jsd", "beta": self.beta}

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        batch = sharpened(batch, self.teacher_temperature)
        rows = generalized_jsd(
            batch.student, batch.required_teacher(), mask=batch.mask, beta=self.beta, temperature=self.temperature
        )
        return (Term(name="generalized_jsd", weight=1.0, rows=rows, counted=batch.counted()),)


METHOD = GKD
