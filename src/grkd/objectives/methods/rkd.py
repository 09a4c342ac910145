"""RKD: the distances and angles between the examples of a batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grkd.groups import checked_mask
from grkd.losses import relational_angle, relational_distance
from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import known, not_negative, some_weight
from grkd.objectives._options import option
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class RKD(Objective):
    """Relational knowledge distillation: match distances and angles between examples.

    L = distance_weight * L_distance + angle_weight * L_angle + label_weight * CE(labels)
    An example is a point: its features (the input of the last layer; widths may differ) or its logits, as set by
    `on`. L_distance: Huber loss on the distances of pairs over their mean. L_angle: on the cosines of the angles of
    triplets, O(rows^3). Means over the pairs and triplets of the micro-batch: the loss depends on how it is split.
    Raises UserError for options out of range, ValueError if features or labels are missing.
    Source: Park et al., arXiv 1904.05068.
    """

    learns_from = "distances and angles between examples"
    minimises = (
        "Huber losses on the distances and angles between the examples of a micro-batch, on features or logits, + CE"
    )
    source = "Park et al., arXiv 1904.05068"
    couples_rows = True

    on: Literal["features", "logits"] = option("features", "points: features of the last layer, or logits")
    distance_weight: float = option(25.0, "weight of the distances of pairs")
    angle_weight: float = option(50.0, "weight of the angles of triplets")
    label_weight: float = option(1.0, "weight of the cross-entropy on hard labels")

    def __post_init__(self) -> None:
        known("rkd", self, "on")
        not_negative("rkd", self, "label_weight")
        some_weight("rkd", self, "distance_weight", "angle_weight")

    @property
    def needs_features(self) -> bool:
        return self.on == "features"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        counted = batch.counted()
        student, teacher = self._points(batch)
        terms: tuple[Term, ...] = ()
        if self.distance_weight:
            rows = relational_distance(student, teacher, counted=counted)
            terms += (Term(name="distance", weight=self.distance_weight, rows=rows, counted=counted),)
        if self.angle_weight:
            rows = relational_angle(student, teacher, counted=counted)
            terms += (Term(name="angle", weight=self.angle_weight, rows=rows, counted=counted),)
        if self.label_weight:
            terms += (label_term(batch, self.label_weight),)
        return terms

    def _points(self, batch: Batch) -> tuple[Tensor, Tensor]:
        teacher = batch.required_teacher()
        if self.on == "logits":
            mask = checked_mask(batch.mask, batch.student)
            return torch.where(mask, batch.student, 0.0), torch.where(mask, teacher, 0.0)
        if batch.features is None:
            raise ValueError("rkd needs the features of student and teacher (classifiers); set on: logits")
        return batch.features.student, batch.features.teacher


METHOD = RKD
