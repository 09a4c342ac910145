"""Standard KD: soft targets, with hard labels as an option."""

from dataclasses import dataclass
from typing import Any

from grkd.errors import UserError
from grkd.losses import soft_target, standardized
from grkd.objectives._base import Across, Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._teacher_temperature import check_not_undone, sharpened
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class KD(Objective):
    """Standard knowledge distillation (Hinton et al.): soft targets at a temperature.

    L = soft_weight * L_soft + label_weight * CE(labels), L_soft at `temperature`, times T^2 if `t_squared`; on
    z-scores if `standardize` (logit standardisation, arXiv 2403.01427).
    teacher_temperature: divides the teacher's scores before anything else.
    Raises UserError for temperature <= 0, negative weights, or weights that are all 0.
    Source: arXiv 1503.02531.
    """

    learns_from = "the teacher's soft targets (Hinton); optionally hard labels"
    minimises = "soft targets at temperature T, times T^2; optionally hard labels"
    source = "Hinton et al., arXiv 1503.02531"

    temperature: float = option(2.0, "temperature T of both softmaxes")
    t_squared: bool = option(True, "multiply the soft targets by T^2, which keeps the gradient's size")
    soft_weight: float = option(1.0, "weight of the soft targets")
    label_weight: float = option(0.0, "weight of the cross-entropy on hard labels")
    standardize: bool = option(False, "apply both softmaxes to z-scores (logit standardisation)")
    teacher_temperature: float = option(1.0, "divide the teacher's scores by this before anything else")

    def __post_init__(self) -> None:
        above_zero("kd", self, "teacher_temperature")
        check_not_undone("kd", standardize=self.standardize, teacher_temperature=self.teacher_temperature)
        if not self.temperature > 0:
            raise UserError(f"kd: temperature must be above 0, got {self.temperature}")
        if self.soft_weight < 0 or self.label_weight < 0 or self.soft_weight + self.label_weight == 0:
            raise UserError("kd: soft_weight and label_weight must be 0 or more, and not both 0")

    @property
    def across_vocabularies(self) -> Across | None:
        return None if self.label_weight else "shared"

    def head_options(self, progress: float) -> dict[str, Any] | None:
        if self.label_weight or self.standardize or self.teacher_temperature != 1.0:
            return None
        soft = {"soft_scale": self.soft_weight, "temperature": self.temperature, "t_squared": self.t_squared}
        return {"alpha": 0.0, **soft}

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        batch = sharpened(batch, self.teacher_temperature)
        terms: tuple[Term, ...] = ()
        if self.soft_weight:
            student, teacher = batch.student, batch.required_teacher()
            if self.standardize:
                student, teacher = (standardized(scores, mask=batch.mask) for scores in (student, teacher))
            soft = soft_target(
                student, teacher, mask=batch.mask, temperature=self.temperature, t_squared=self.t_squared
            )
            terms += (Term(name="soft_target", weight=self.soft_weight, rows=soft, counted=batch.counted()),)
        if self.label_weight:
            terms += (label_term(batch, self.label_weight),)
        return terms


METHOD = KD
