"""GRKD: the teacher's order over a group, mixed with soft targets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from grkd import groups, schedules
from grkd.errors import UserError
from grkd.groups import wide
from grkd.losses import Normalize, cross_entropy_of, expected_disagreement, standardized
from grkd.objectives._base import Batch, Level, Objective, Term, label_term
from grkd.objectives._option_checks import above_zero, known, not_negative
from grkd.objectives._pair_terms import PairLoss, PairTarget, PairWeight, Sides

GroupChoice = Literal["auto", "all", "top", "sample"]
PairLevel = Literal["token", "response", "both"]
ResponseSoft = Literal["tokens", "responses"]

# Up to here "auto" takes every candidate: all pairs of 1,000 cost less than a small student's forward pass.
_ALL_UP_TO = 1_000
# Terms that compare rows.
_ACROSS = ("across_batch", "across_relation", "across_listwise")


@dataclass(frozen=True, kw_only=True)
class GRKD(Objective):
    """Group Relative Knowledge Distillation: L = alpha * L_GR + (1 - alpha) * L_soft, alpha rising over training.

    L = alpha * (pair_scale * L_GR + advantage_scale * L_adv) + (1 - alpha) * soft_scale * L_soft
        + label_weight * CE(labels)
    L_GR over a group: "all" candidates, the teacher's "top" group_size, or a "sample" of group_size drawn from
    softmax(t / group_temperature) without replacement; "auto" takes all up to 1,000 candidates, else a sample;
    times tau^2 where `tau_squared`. pair_target, pair_weight: grkd.losses.weighted_pairs; weights are the gap between
    the teacher's probabilities (at `temperature`) or between discounts of rank. standardize_pairs: of z-scores.
    L_adv over all candidates: the chance that draws from student and teacher differ, at advantage_temperature
    (grkd.losses.expected_disagreement): its gradient is each candidate's advantage over its group.
    across_batch: weight, against L_GR's, of the same loss over pairs of rows within each class (all candidates only):
    its scores are log-probabilities at `temperature`. across_relation: weight of 1 - correlation of a class's
    probabilities over the rows, which is the loss of all their margins in O(rows) and what dist has. across_listwise:
    weight of the KL of the rows' shares of a class, p(k | a) / sum_b p(k | b), at `temperature`. All three are under
    alpha and depend on how a batch is split. within_relation: weight, under alpha, of 1 - correlation of a row's
    probabilities over its candidates (all of them): the margins of all pairs in O(candidates), dist's other term.
    Both relations are taken at `relation_temperature`.
    L_soft at `temperature` over all candidates, times T^2 where `t_squared`, of z-scores where `standardize` (arXiv
    2403.01427). alpha: `alpha_shape` to `alpha_ceiling`.

    teacher_temperature: the teacher's scores of candidates (not of responses) are divided by it before anything else.
    Below 1 it sharpens a teacher that learnt from wrong labels, for a student whose own probabilities should be sharp;
    `temperature` is on both sides, so that below 1 it leaves the student's as flat as the teacher's.

    level: which groups make pairs. "token": classes, or a token's vocabulary. "response": the responses of a prompt,
    all of them, by mean token log-probability, at response_tau. "both". Terms over rows carry token_weight, terms over
    responses response_weight. response_soft: where L_soft is taken when responses are ranked: over "tokens", or over
    the group of "responses", softmax(score / response_tau / T) on both sides; level "both" has the tokens' as well.
    on_policy_fraction: the share of the prompts that the student answers anew in training, as gkd has it; at level
    "token" alone, since nobody scores new responses.
    Raises UserError for options out of range.
    Source: arXiv 2504.20482; it has one tau, hard uniform pairs, their mean, soft targets and alpha. The rest is ours.
    """

    tau: float = 1.0
    tau_squared: bool = False
    pair_target: PairTarget = "hard"
    pair_weight: PairWeight = "uniform"
    normalize: Normalize = "pairs"
    standardize_pairs: bool = False
    across_batch: float = 0.0
    across_relation: float = 0.0
    across_listwise: float = 0.0
    within_relation: float = 0.0
    relation_temperature: float = 1.0
    advantage_scale: float = 0.0
    advantage_temperature: float = 1.0
    group: GroupChoice = "auto"
    group_size: int = 16
    group_temperature: float = 1.0
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    t_squared: bool = False
    standardize: bool = False
    alpha_shape: schedules.Shape = "linear"
    alpha_ceiling: float = 1.0
    pair_scale: float = 1.0
    soft_scale: float = 1.0
    label_weight: float = 0.0
    level: PairLevel = "token"
    token_weight: float = 1.0
    response_weight: float = 1.0
    response_tau: float = 0.1
    response_soft: ResponseSoft = "tokens"
    on_policy_fraction: float = 0.0

    def __post_init__(self) -> None:
        above_zero("grkd", self, "tau", "temperature", "group_temperature", "response_tau", "advantage_temperature")
        above_zero("grkd", self, "relation_temperature", "teacher_temperature")
        not_negative("grkd", self, "pair_scale", "soft_scale", "across_batch", "advantage_scale")
        not_negative("grkd", self, "across_relation", "across_listwise", "within_relation")
        not_negative("grkd", self, "label_weight", "token_weight", "response_weight")
        for name in ("alpha_ceiling", "on_policy_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"grkd: {name} must be in [0, 1], got {getattr(self, name)}")
        if self.on_policy_fraction and self.level != "token":
            raise UserError("grkd: on_policy_fraction needs level: token; responses are ranked by scores made before")
        if self.group_size < 2:
            raise UserError(f"grkd: group_size must be 2 or more, got {self.group_size}")
        choices = {"pair_target": PairTarget, "pair_weight": PairWeight, "normalize": Normalize, "group": GroupChoice}
        choices |= {"alpha_shape": schedules.Shape, "level": PairLevel, "response_soft": ResponseSoft}
        known("grkd", self, {name: get_args(choice) for name, choice in choices.items()})
        across = [name for name in _ACROSS if getattr(self, name)]
        if across and (self.group in ("top", "sample") or self.level != "token"):
            raise UserError(
                f"grkd: {across[0]} compares rows in every class; set group: all (or auto) and level: token"
            )
        if not self.levels:
            raise UserError("grkd: pair_scale, soft_scale and the other weights leave no term; set one above 0")

    @property
    def levels(self) -> tuple[Level, ...]:
        return tuple(level for level in get_args(Level) if self._names(level))

    @property
    def couples_rows(self) -> bool:
        return bool({*_ACROSS} & {*self._names("row")})

    @property
    def on_policy(self) -> float:
        return self.on_policy_fraction

    def alpha(self, progress: float) -> float:
        """Weight of the group relative loss at this point of training."""
        return schedules.alpha(progress, shape=self.alpha_shape, ceiling=self.alpha_ceiling)

    def head_options(self, progress: float) -> dict[str, Any] | None:
        names = set(self._names("row"))
        paired = "group_relative" in names
        plain = self.pair_target != "margin" and self.pair_weight == "uniform" and not self.standardize_pairs
        if (
            not names
            or names & {"labels", "advantage", "within_relation", *_ACROSS}
            or self.standardize
            or self.teacher_temperature != 1.0
            or (paired and not plain)
        ):
            return None
        # The head multiplies by alpha and 1 - alpha itself.
        options: dict[str, Any] = {
            "alpha": self.alpha(progress),
            "pair_scale": self._weights("row", 1.0)["group_relative"],
            "soft_scale": self._weights("row", 0.0)["soft_target"],
        }
        shared = ["temperature", "t_squared"]
        if paired:
            shared += ["tau", "pair_target", "normalize", "group", "group_size", "group_temperature"]
        return options | {name: getattr(self, name) for name in shared}

    def check_candidates(self, candidates: int) -> None:
        names, sized = self._names("row"), self._choice(candidates) != "all"
        across = [name for name in _ACROSS if name in names]
        if across and sized:
            raise UserError(
                f"grkd: {across[0]} compares rows in every class, and group: auto samples {candidates} candidates; "
                f"set {across[0]}: 0 or group: all"
            )
        if "group_relative" in names and sized and self.group_size > candidates:
            raise UserError(f"grkd: group_size {self.group_size} is larger than the {candidates} candidates")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        weights = self._weights(batch.level, self.alpha(batch.progress))
        if batch.level == "row" and batch.teacher is not None and self.teacher_temperature != 1.0:
            batch = replace(batch, teacher=wide(batch.teacher) / self.teacher_temperature)
        read = cache(partial(self._sides, batch))  # once for all terms that read the same scores
        made: dict[str, Callable[[Batch, Sides], Tensor]] = {
            "across_batch": self._across,
            "across_relation": self._relation,
            "across_listwise": self._listwise,
            "advantage": self._advantage,
            "response_advantage": self._advantage,
            "within_relation": self._within,
            "soft_target": self._soft_target,
            "response_soft_target": self._soft_target,
        }
        terms, counted = [], batch.counted()
        for name in self._names(batch.level):
            if name == "labels":
                terms.append(label_term(batch, weights[name]))
                continue
            sides = read(self.standardize if name.endswith("soft_target") else self.standardize_pairs)
            if name.endswith("group_relative"):
                rows, paired = self._group_relative(batch, sides)
                terms.append(Term(name=name, weight=weights[name], rows=rows, counted=paired))
            else:
                # What compares rows is one value for the whole micro-batch, carried by every row, so that dividing by
                # rows is right.
                rows = made[name](batch, sides).expand(len(counted))
                terms.append(Term(name=name, weight=weights[name], rows=rows, counted=counted))
        return tuple(terms)

    def _weights(self, level: Level, alpha: float) -> dict[str, float]:
        """The weight of every term of a level at this alpha; 0 for those that the options leave out."""
        pairs, soft, advantage = alpha * self.pair_scale, (1 - alpha) * self.soft_scale, alpha * self.advantage_scale
        if level == "response":
            here = self.response_weight if self.level != "token" else 0.0
            squared = self.response_tau**2 if self.tau_squared else 1.0
            in_group = here if self.response_soft == "responses" else 0.0
            return {
                "response_group_relative": here * pairs * squared,
                "response_advantage": here * advantage,
                "response_soft_target": in_group * soft,
            }
        of_pairs = self.token_weight if self.level != "response" else 0.0
        of_soft = 0.0 if self.level == "response" and self.response_soft == "responses" else self.token_weight
        squared = self.tau**2 if self.tau_squared else 1.0
        return {
            "group_relative": of_pairs * pairs * squared,
            "across_batch": of_pairs * pairs * squared * self.across_batch,
            "across_relation": of_pairs * alpha * self.across_relation,
            "across_listwise": of_pairs * alpha * self.across_listwise,
            "within_relation": of_pairs * alpha * self.within_relation,
            "advantage": of_pairs * advantage,
            "soft_target": of_soft * soft,
            "labels": self.label_weight,
        }

    def _names(self, level: Level) -> list[str]:
        """Terms of a level whose weight is above 0 at some time of training: the others are never computed."""
        ends = {self.alpha(0.0), self.alpha(1.0)}
        return [name for name in self._weights(level, 0.0) if any(self._weights(level, end)[name] > 0 for end in ends)]

    def _choice(self, candidates: int) -> groups.Choice:
        if self.group == "auto":
            return "all" if candidates <= _ALL_UP_TO else "sample"
        return self.group

    def _sides(self, batch: Batch, z_scores: bool) -> Sides:
        student, teacher = batch.student, batch.required_teacher()
        if z_scores:
            student, teacher = standardized(student, mask=batch.mask), standardized(teacher, mask=batch.mask)
        return Sides(student=student, teacher=teacher, mask=batch.mask)

    def _group_relative(self, batch: Batch, sides: Sides) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        teacher = batch.required_teacher()
        # The responses of a prompt are few and already a sample: all of them are the group.
        choice = "all" if batch.level == "response" else self._choice(teacher.shape[-1])
        group = groups.choose(
            teacher,
            choice,
            size=self.group_size,
            temperature=self.group_temperature,
            mask=batch.mask,
            seeds=batch.seeds,
            generator=batch.generator,
        )
        return self._pairs(batch.level).in_rows(sides, group=group)

    def _across(self, batch: Batch, sides: Sides) -> Float[Tensor, ""]:
        self.check_candidates(batch.student.shape[-1])
        return self._pairs("row").across_rows(sides)

    def _relation(self, batch: Batch, sides: Sides) -> Float[Tensor, ""]:
        self.check_candidates(batch.student.shape[-1])
        return self._pairs("row").relation(sides, temperature=self.relation_temperature)

    def _listwise(self, batch: Batch, sides: Sides) -> Float[Tensor, ""]:
        self.check_candidates(batch.student.shape[-1])
        return self._pairs("row").listwise(sides)

    def _within(self, _: Batch, sides: Sides) -> Float[Tensor, " rows"]:
        return self._pairs("row").relation_within(sides, temperature=self.relation_temperature)

    def _advantage(self, batch: Batch, _: Sides) -> Float[Tensor, " rows"]:
        temperature = self.advantage_temperature * (self.response_tau if batch.level == "response" else 1.0)
        return expected_disagreement(batch.student, batch.required_teacher(), mask=batch.mask, temperature=temperature)

    def _soft_target(self, batch: Batch, sides: Sides) -> Float[Tensor, " rows"]:
        scaled = batch.level == "response" and not self.standardize
        student, teacher = sides.log_probs(self.temperature * (self.response_tau if scaled else 1.0))
        rows = cross_entropy_of(student, teacher, sides.exists)
        return rows * self.temperature**2 if self.t_squared else rows

    def _pairs(self, level: Level) -> PairLoss:
        """The pair loss of a level; probabilities of responses are those of its soft targets."""
        responses = level == "response"
        return PairLoss(
            tau=self.response_tau if responses else self.tau,
            pair_target=self.pair_target,
            pair_weight=self.pair_weight,
            normalize=self.normalize,
            temperature=self.temperature * (self.response_tau if responses else 1.0),
        )


METHOD = GRKD
