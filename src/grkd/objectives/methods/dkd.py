"""DKD: soft targets in two parts, the true class and the distribution over the others."""

from dataclasses import dataclass

from grkd.errors import UserError
from grkd.losses import decoupled_kl, standardized
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, not_negative, some_weight
from grkd.objectives._options import option
from grkd.objectives._teacher_temperature import check_not_undone, sharpened
from grkd.objectives._terms import Term, label_term, labelled


@dataclass(frozen=True, kw_only=True)
class DKD(Objective):
    """Decoupled knowledge distillation: the two parts of kd's divergence, each with its own weight.

    L = rise * T^2 * (alpha * TCKD + beta * NCKD) + label_weight * CE(labels)
    TCKD: KL between (p_label, 1 - p_label) of teacher and student; NCKD: KL between the probabilities of the other
    classes among themselves; softmaxes at `temperature`, on z-scores if `standardize` (arXiv 2403.01427).
    alpha = 1 and beta = 1 - p_T(label) would be kd. rise: min(1, progress / warmup).
    teacher_temperature: divides the teacher's scores before anything else.
    Rows without a label count in no term. Raises UserError for options out of range, ValueError without labels.
    Source: Zhao et al., arXiv 2203.08679. beta is 2 to 8 there, by teacher and student; warmup is 20 of 240 epochs.
    """

    learns_from = "soft targets, with separate weights for the label and for the other classes"
    minimises = (
        "T^2 * (alpha * KL of the label's probability + beta * KL among the other classes) + CE; both weights "
        "rise during the first `warmup` of training"
    )
    source = "Zhao et al., arXiv 2203.08679"

    alpha: float = option(1.0, "weight of the label against the other classes (TCKD)")
    beta: float = option(8.0, "weight of the other classes among themselves (NCKD)")
    temperature: float = option(4.0, "temperature T of both softmaxes")
    label_weight: float = option(1.0, "weight of the cross-entropy on hard labels")
    warmup: float = option(0.08, "share of training during which both weights rise from 0")
    standardize: bool = option(False, "apply both softmaxes to z-scores")
    teacher_temperature: float = option(1.0, "divide the teacher's scores by this before anything else")

    def __post_init__(self) -> None:
        above_zero("dkd", self, "temperature", "teacher_temperature")
        check_not_undone("dkd", standardize=self.standardize, teacher_temperature=self.teacher_temperature)
        not_negative("dkd", self, "label_weight")
        some_weight("dkd", self, "alpha", "beta")
        if not 0 <= self.warmup < 1:
            raise UserError(f"dkd: warmup is a share of the training, 0 or more and below 1, got {self.warmup}")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        batch = sharpened(batch, self.teacher_temperature)
        counted = labelled(batch)
        assert batch.labels is not None
        student, teacher = batch.student, batch.required_teacher()
        if self.standardize:
            student, teacher = (standardized(scores, mask=batch.mask) for scores in (student, teacher))
        target, others = decoupled_kl(student, teacher, batch.labels, mask=batch.mask, temperature=self.temperature)
        scale = self.temperature**2 * (min(1.0, batch.progress / self.warmup) if self.warmup else 1.0)
        terms = []
        if self.alpha:
            terms.append(Term(name="target", weight=scale * self.alpha, rows=target, counted=counted))
        if self.beta:
            terms.append(Term(name="non_target", weight=scale * self.beta, rows=others, counted=counted))
        if self.label_weight:
            terms.append(label_term(batch, self.label_weight))
        return tuple(terms)


METHOD = DKD
