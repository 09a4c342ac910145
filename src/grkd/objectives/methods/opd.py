"""OPD: the reverse KL to the teacher on the student's own responses."""

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
class OPD(Objective):
    """On-policy distillation: the reverse KL at every token of responses that the student has just sampled.

    L = KL(p_S || p_T) = sum_v p_S(v) (log p_S(v) - log p_T(v)) over the whole vocabulary, in nats per token
    No gradient flows through the sampling. teacher_temperature divides the teacher's scores before anything else.
    Raises UserError for options out of range.
    Source: the on-policy limit of GKD (Agarwal et al., arXiv 2306.13649: lambda = 1, beta = 1).
    """

    learns_from = "reverse KL to the teacher on the student's own responses (on-policy)"
    minimises = "KL(p_S || p_T) on sampled responses"
    source = "arXiv 2306.13649"
    head_names = ("group_relative", "reverse_kl")

    temperature: float = option(1.0, "temperature of both softmaxes")
    on_policy_fraction: float = option(1.0, "share of prompts trained on fresh responses of the student")
    teacher_temperature: float = option(1.0, "divide the teacher's scores by this before anything else")

    def __post_init__(self) -> None:
        above_zero("opd", self, "temperature", "teacher_temperature")
        if not 0 < self.on_policy_fraction <= 1:
            raise UserError(f"opd: on_policy_fraction must be above 0 and at most 1, got {self.on_policy_fraction}")

    @property
    def on_policy(self) -> float:
        return self.on_policy_fraction

    def head_options(self, progress: float) -> dict[str, Any] | None:
        if self.teacher_temperature != 1.0:
            return None
        return {"alpha": 0.0, "temperature": self.temperature, "divergence": "reverse_kl"}

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        batch = sharpened(batch, self.teacher_temperature)
        rows = generalized_jsd(
            batch.student, batch.required_teacher(), mask=batch.mask, beta=1.0, temperature=self.temperature
        )
        return (Term(name="reverse_kl", weight=1.0, rows=rows, counted=batch.counted()),)


METHOD = OPD
