"""DIST: the student's probabilities correlate with the teacher's, over classes and over the batch."""

from dataclasses import dataclass

from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses import masked_log_softmax, pearson_distance, standardized
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, not_negative, some_weight
from grkd.objectives._options import option
from grkd.objectives._teacher_temperature import check_not_undone, sharpened
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class DIST(Objective):
    """Distillation from a stronger teacher: match relations by Pearson's correlation, not probabilities.

    L = inter_class_weight * T^2 * L_inter + intra_class_weight * T^2 * L_intra + label_weight * CE(labels)
    L_inter: 1 - correlation of a row's probabilities, mean over rows. L_intra: 1 - correlation of a class's
    probabilities over the rows of the micro-batch, mean over the classes that have two rows or more; every row carries
    this value, so it depends on how a batch is split (gradient accumulation, ranks). p = softmax(scores / T), on
    z-scores if `standardize` (arXiv 2403.01427); T^2 only if `t_squared`.
    teacher_temperature: divides the teacher's scores before anything else.
    Raises UserError for options out of range, ValueError if labels are missing.
    Source: Huang et al., arXiv 2205.10536 (beta is inter_class_weight, gamma intra_class_weight; T^2 in its code).
    """

    learns_from = "correlation with the teacher's probabilities, within an example and within a class"
    minimises = "1 - Pearson's correlation of probabilities, of each row and of each class over the micro-batch, + CE"
    source = "Huang et al., arXiv 2205.10536"

    temperature: float = option(1.0, "temperature T of both softmaxes")
    t_squared: bool = option(True, "multiply both correlations by T^2")
    inter_class_weight: float = option(2.0, "weight of 1 - correlation of a row's probabilities")
    intra_class_weight: float = option(2.0, "weight of 1 - correlation of a class's probabilities over the micro-batch")
    label_weight: float = option(1.0, "weight of the cross-entropy on hard labels")
    standardize: bool = option(False, "apply both softmaxes to z-scores")
    teacher_temperature: float = option(1.0, "divide the teacher's scores by this before anything else")

    def __post_init__(self) -> None:
        above_zero("dist", self, "temperature", "teacher_temperature")
        check_not_undone("dist", standardize=self.standardize, teacher_temperature=self.teacher_temperature)
        not_negative("dist", self, "label_weight")
        some_weight("dist", self, "inter_class_weight", "intra_class_weight")

    @property
    def couples_rows(self) -> bool:
        return self.intra_class_weight > 0

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        batch = sharpened(batch, self.teacher_temperature)
        counted = batch.counted()
        # Without a mask there is less to do, and nothing to count.
        mask = None if batch.mask is None else checked_mask(batch.mask, batch.student)
        student = self._probabilities(batch.student, mask)
        teacher = self._probabilities(batch.required_teacher().detach(), mask)
        scale = self.temperature**2 if self.t_squared else 1.0
        terms: tuple[Term, ...] = ()
        if self.inter_class_weight:
            rows = pearson_distance(student, teacher, mask=mask)
            terms += (Term(name="inter_class", weight=scale * self.inter_class_weight, rows=rows, counted=counted),)
        if self.intra_class_weight:
            classes = pearson_distance(student.T, teacher.T, mask=None if mask is None else mask.T)
            mean = classes.mean() if mask is None else classes.sum() / (mask.sum(0) > 1).sum().clamp_min(1)
            rows = mean.expand(len(counted))
            terms += (Term(name="intra_class", weight=scale * self.intra_class_weight, rows=rows, counted=counted),)
        if self.label_weight:
            terms += (label_term(batch, self.label_weight),)
        return terms

    def _probabilities(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        scores = standardized(scores, mask=mask) if self.standardize else wide(scores)
        return masked_log_softmax(scores, mask, self.temperature).exp()


METHOD = DIST
