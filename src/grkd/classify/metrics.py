"""What is measured of a classifier: the same names and intervals in every command."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.metrics.calibration import calibration
from grkd.metrics.class_groups import group_accuracy
from grkd.metrics.rank import kendall_tau_b, rank_fidelity, reverse_kl
from grkd.metrics.rank_measures import calibration_interval
from grkd.metrics.registry import metric_of
from grkd.statistics import Interval, bootstrap_interval

# Scores measured at a time; several float64 tensors of as many live together.
_ENTRIES = 1 << 22
_TOP = 5
# Of the teacher's probabilities: none of these is measured if it gives an order alone.
NEAR_TEACHER = ("soft_cross_entropy_nats", "forward_kl_nats", "reverse_kl_nats")
# What a search may go by.
ON_VALIDATION = (
    "accuracy",
    "nll_nats",
    "brier",
    "ece",
    "kendall_tau",
    "pair_accuracy",
    "top1_agreement",
    *NEAR_TEACHER,
)
Metrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a classifier's scores are measured against.

    groups: class numbers per group of the recipe, each measured by its name. look_alikes: the data set's own groups,
    measured together. order_only: the teacher's scores are places, so that nothing but their order is measured.
    """

    labels: Int[Tensor, " examples"]
    teacher: Float[Tensor, "examples classes"] | None = None
    votes: Int[Tensor, "examples classes"] | None = None
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    look_alikes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    order_only: bool = False

    def part(self, rows: slice) -> "Targets":
        teacher, votes = (None if values is None else values[rows] for values in (self.teacher, self.votes))
        return replace(self, labels=self.labels[rows], teacher=teacher, votes=votes)


def classifier_metrics(
    logits: Float[Tensor, "examples classes"],
    targets: Targets,
    *,
    outside: Float[Tensor, "outside classes"] | None = None,
    intervals: bool = True,
) -> Metrics:
    """metric -> {value, low, high}: means over the examples, with 95 % intervals by resampling them.

    accuracy, top5_accuracy (more than five classes), nll_nats, brier in [0, 2], ece (15 bins).
    Against a teacher: rank.rank_fidelity over all classes, reverse_kl_nats. votes_kendall_tau: tau-b of the scores and
    people's votes.
    Over the examples whose label is in a group: group_accuracy/<name>, the highest of all classes is the label;
    within_group_accuracy/<name>, the highest of the group's classes is. All look_alikes together: name "look-alikes".
    outside_auroc: how well the top probability tells examples from inputs of no class; outside_auroc_logit: the top
    logit; both without an interval.
    intervals: False leaves all bounds null, which is much faster. Scores that are not finite, and groups without an
    example, give null.
    """
    finite = bool(logits.isfinite().all())
    logits = logits if finite else logits.nan_to_num()
    step = max(1, _ENTRIES // logits.shape[-1])
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        for name, values in _columns(logits[rows], targets.part(rows)).items():
            parts.setdefault(name, []).append(values.double())
    columns = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
    confidence = columns.pop("confidence")
    if intervals:
        found = {name: bootstrap_interval(values, share=metric_of(name).is_share) for name, values in columns.items()}
        found["ece"] = calibration_interval(confidence, columns["accuracy"], np.arange(len(logits)), seed=0)
    else:
        error = float(calibration(logits, targets.labels)["expected_calibration_error"])
        found = {name: _mean(values) for name, values in columns.items()} | {"ece": _alone(error)}
    if outside is not None:
        tops = [scores.double().softmax(-1).amax(-1) for scores in (logits, outside)]
        found["outside_auroc"] = _alone(auroc(*tops))
        found["outside_auroc_logit"] = _alone(auroc(logits.amax(-1), outside.amax(-1)))
    if not finite:
        found = {name: _alone(math.nan) for name in found}
    return {name: interval.as_json() for name, interval in found.items()}


def class_counts(
    logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"], names: Sequence[str]
) -> dict[str, Any]:
    """How often examples of a class were taken for which: {names, pairs: [label, taken for, examples], ...}.

    pairs holds what occurs alone, by label and class number, right answers included.
    """
    pairs = torch.stack([labels, logits.argmax(-1)], dim=-1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    rows = [[*pair, count] for pair, count in zip(found.tolist(), counts.tolist(), strict=True)]
    return {"names": list(names), "pairs": rows}


@torch.no_grad()
def auroc(inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]) -> float:
    """The chance that an example scores above an outsider, ties half: the area under the ROC curve, in [0, 1].

    (#{a > b} + #{a = b} / 2) / (inside * outside). NaN if one side is empty or not finite.
    """
    if not all(len(side) and bool(side.isfinite().all()) for side in (inside, outside)):
        return math.nan
    rising = outside.sort().values
    below = torch.searchsorted(rising, inside, right=False).double()
    not_above = torch.searchsorted(rising, inside, right=True).double()
    return float((below + not_above).mean() / 2 / len(outside))


def _columns(logits: Tensor, targets: Targets) -> dict[str, Tensor]:
    """One value per example and metric (per example of the group, for groups), and the confidence."""
    found = calibration(logits.double(), targets.labels)
    columns = {"accuracy": found["correct"], **{name: found[name] for name in ("nll_nats", "brier", "confidence")}}
    if logits.shape[-1] > _TOP:
        columns["top5_accuracy"] = (logits.topk(_TOP).indices == targets.labels.unsqueeze(-1)).any(-1)
    if targets.teacher is not None:
        fidelity = rank_fidelity(logits, targets.teacher, top_k=None)
        fidelity["reverse_kl_nats"] = reverse_kl(logits, targets.teacher)
        columns |= {name: each for name, each in fidelity.items() if not (targets.order_only and "nats" in name)}
    if targets.votes is not None:
        columns["votes_kendall_tau"] = kendall_tau_b(logits, targets.votes.to(logits.dtype))
    for name, measured in group_accuracy(logits, targets.labels, class_groups=targets.groups).items():
        columns[f"group_accuracy/{name}"] = measured["accuracy"]
        columns[f"within_group_accuracy/{name}"] = measured["within_group_accuracy"]
    if targets.look_alikes:
        alike = group_accuracy(logits, targets.labels, class_groups=targets.look_alikes).values()
        columns["group_accuracy/look-alikes"] = torch.cat([one["accuracy"] for one in alike])
        columns["within_group_accuracy/look-alikes"] = torch.cat([one["within_group_accuracy"] for one in alike])
    return columns


def _mean(values: np.ndarray) -> Interval:
    known = values[~np.isnan(values)]
    return _alone(float(known.mean()) if known.size else math.nan)


def _alone(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)
