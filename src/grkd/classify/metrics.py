"""What `grkd compare` measures of a classifier on held-out examples, on the device that holds its scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.metrics.rank import calibration, group_accuracy, kendall_tau_b, rank_fidelity, reverse_kl
from grkd.statistics import wilson_interval

# Scores measured at a time; several float64 tensors of as many live together.
_ENTRIES = 1 << 22
_TOP = 5
# What a search may go by.
ON_VALIDATION = (
    "accuracy",
    "nll_nats",
    "brier",
    "ece",
    "kendall_tau",
    "pair_accuracy",
    "top1_agreement",
    "soft_cross_entropy_nats",
    "forward_kl_nats",
    "reverse_kl_nats",
)


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What a classifier's scores are measured against. groups: class numbers that look alike, by the group's name."""

    labels: Int[Tensor, " examples"]
    teacher: Float[Tensor, "examples classes"] | None = None
    votes: Int[Tensor, "examples classes"] | None = None
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def part(self, rows: slice) -> "Yardstick":
        teacher, votes = (None if values is None else values[rows] for values in (self.teacher, self.votes))
        return Yardstick(labels=self.labels[rows], teacher=teacher, votes=votes)


def figures(
    logits: Float[Tensor, "examples classes"],
    yardstick: Yardstick,
    *,
    outside: Float[Tensor, "outside classes"] | None = None,
) -> dict[str, dict[str, float | None]]:
    """metric -> {value, low, high}: means over the examples; bounds (Wilson, 95 %) of the accuracy alone.

    accuracy, top5_accuracy (more than five classes), nll_nats, brier in [0, 2], ece (15 bins).
    Against a teacher: rank.rank_fidelity over all classes, reverse_kl_nats. votes_kendall_tau: tau-b of the scores and
    people's votes. Over the groups' examples: group_accuracy/look-alikes, the highest of all classes is the label;
    within_group_accuracy/look-alikes, the highest of the group's classes is.
    outside_auroc: how well the top probability tells examples from inputs of no class; outside_auroc_logit: the top
    logit. Scores that are not finite give null.
    """
    step = max(1, _ENTRIES // logits.shape[-1])
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        for name, values in _columns(logits[rows], yardstick.part(rows)).items():
            parts.setdefault(name, []).append(values.double())
    found = {name: float(torch.cat(values).nanmean()) for name, values in parts.items()}
    found["ece"] = float(calibration(logits, yardstick.labels)["expected_calibration_error"])
    if yardstick.groups:
        inside = group_accuracy(logits, yardstick.labels, class_groups=yardstick.groups)
        for name, measure in (("group_accuracy", "accuracy"), ("within_group_accuracy", "within_group_accuracy")):
            found[f"{name}/look-alikes"] = float(torch.cat([group[measure] for group in inside.values()]).mean())
    if outside is not None:
        tops = [scores.double().softmax(-1).amax(-1) for scores in (logits, outside)]
        found["outside_auroc"] = auroc(*tops)
        found["outside_auroc_logit"] = auroc(logits.amax(-1), outside.amax(-1))
    unsound = not bool(logits.isfinite().all())
    shown = {
        name: {"value": None if unsound or math.isnan(value) else value, "low": None, "high": None}
        for name, value in found.items()
    }
    if not unsound:
        count = len(logits)
        shown["accuracy"] = wilson_interval(round(found["accuracy"] * count), count).as_json()
    return shown


@torch.no_grad()
def auroc(inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]) -> float:
    """The chance that an example scores above an outsider, ties half: the area under the ROC curve, in [0, 1].

    (#{a > b} + #{a = b} / 2) / (inside * outside). NaN where one side is empty.
    """
    if not len(inside) or not len(outside):
        return math.nan
    rising = outside.sort().values
    below = torch.searchsorted(rising, inside, right=False).double()
    not_above = torch.searchsorted(rising, inside, right=True).double()
    return float((below + not_above).mean() / 2 / len(outside))


def _columns(logits: Tensor, against: Yardstick) -> dict[str, Tensor]:
    """What is measured of each example."""
    found = calibration(logits.double(), against.labels)
    columns = {"accuracy": found["correct"], "nll_nats": found["nll_nats"], "brier": found["brier"]}
    if logits.shape[-1] > _TOP:
        columns["top5_accuracy"] = (logits.topk(_TOP).indices == against.labels.unsqueeze(-1)).any(-1)
    if against.teacher is not None:
        columns |= rank_fidelity(logits, against.teacher, top_k=None)
        columns["reverse_kl_nats"] = reverse_kl(logits, against.teacher)
    if against.votes is not None:
        columns["votes_kendall_tau"] = kendall_tau_b(logits, against.votes.to(logits.dtype))
    return columns
