"""GRKD: the teacher's order over a group, mixed with soft targets."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from grkd import groups, schedules
from grkd.errors import UserError
from grkd.groups import checked_mask
from grkd.kernels.all_pairs import all_pairs
from grkd.losses import Normalize, PairTarget, soft_target
from grkd.objectives._base import Batch, Objective, Term, label_term

GroupChoice = Literal["auto", "all", "top", "sample"]

# Up to here "auto" takes every candidate: all pairs of 1,000 cost less than a small student's forward pass.
_ALL_UP_TO = 1_000


@dataclass(frozen=True, kw_only=True)
class GRKD(Objective):
    """Group Relative Knowledge Distillation: L = alpha * L_GR + (1 - alpha) * L_soft, alpha rising over training.

    L = alpha * pair_scale * L_GR + (1 - alpha) * soft_scale * L_soft + label_weight * CE(labels)
    L_GR over a group: "all" candidates, the teacher's "top" group_size, or a "sample" of group_size drawn from
    softmax(t / group_temperature) without replacement; "auto" takes all up to 1,000 candidates, else a sample.
    L_soft at `temperature` over all candidates, times T^2 where `t_squared`. alpha: `alpha_shape` to `alpha_ceiling`.
    Raises UserError for options out of range.
    Source: arXiv 2504.20482. The scales, label_weight, soft pairs and the per-candidate mean are ours.
    """

    tau: float = 1.0
    pair_target: PairTarget = "hard"
    normalize: Normalize = "pairs"
    group: GroupChoice = "auto"
    group_size: int = 16
    group_temperature: float = 1.0
    temperature: float = 1.0
    t_squared: bool = False
    alpha_shape: schedules.Shape = "linear"
    alpha_ceiling: float = 1.0
    pair_scale: float = 1.0
    soft_scale: float = 1.0
    label_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tau", "temperature", "group_temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"grkd: {name} must be above 0, got {getattr(self, name)}")
        for name in ("pair_scale", "soft_scale", "label_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"grkd: {name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.alpha_ceiling <= 1:
            raise UserError(f"grkd: alpha_ceiling must be in [0, 1], got {self.alpha_ceiling}")
        if self.group_size < 2:
            raise UserError(f"grkd: group_size must be 2 or more, got {self.group_size}")
        choices: dict[str, tuple[str, ...]] = {
            "pair_target": get_args(PairTarget),
            "normalize": get_args(Normalize),
            "group": get_args(GroupChoice),
            "alpha_shape": schedules.SHAPES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"grkd: unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")

    def alpha(self, progress: float) -> float:
        """Weight of the group relative loss at this point of training."""
        return schedules.alpha(progress, shape=self.alpha_shape, ceiling=self.alpha_ceiling)

    def head_options(self, progress: float) -> dict[str, Any] | None:
        if self.label_weight:
            return None
        shared = (
            "tau", "pair_target", "normalize", "group", "group_size", "group_temperature",
            "temperature", "t_squared", "pair_scale", "soft_scale",
        )  # fmt: skip
        return {"alpha": self.alpha(progress), **{name: getattr(self, name) for name in shared}}

    def check_candidates(self, candidates: int) -> None:
        sized = self.group in ("top", "sample") or (self.group == "auto" and candidates > _ALL_UP_TO)
        if sized and self.group_size > candidates:
            raise UserError(f"grkd: group_size {self.group_size} is larger than the {candidates} candidates")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        alpha, counted = self.alpha(batch.progress), batch.counted()
        teacher = batch.required_teacher()
        relative, has_pair = self._group_relative(batch, teacher)
        soft = soft_target(
            batch.student, teacher, mask=batch.mask, temperature=self.temperature, t_squared=self.t_squared
        )
        terms: tuple[Term, ...] = (
            Term(name="group_relative", weight=alpha * self.pair_scale, rows=relative, counted=has_pair),
            Term(name="soft_target", weight=(1 - alpha) * self.soft_scale, rows=soft, counted=counted),
        )
        if self.label_weight:
            terms += (label_term(batch, self.label_weight),)
        return terms

    def _group_relative(
        self, batch: Batch, teacher: Float[Tensor, "rows candidates"]
    ) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        student, mask = batch.student, checked_mask(batch.mask, batch.student)
        choice = self.group
        if choice == "auto":
            choice = "all" if student.shape[-1] <= _ALL_UP_TO else "sample"
        group = groups.choose(
            teacher,
            choice,
            size=self.group_size,
            temperature=self.group_temperature,
            mask=mask,
            generator=batch.generator,
        )
        if group is not None:
            student, teacher = student.gather(-1, group.indices), teacher.gather(-1, group.indices)
            mask = group.mask
        relative = all_pairs(
            student, teacher, mask=mask, tau=self.tau, pair_target=self.pair_target, normalize=self.normalize
        )
        return relative, groups.has_pair(teacher, mask=mask)


METHOD = GRKD
