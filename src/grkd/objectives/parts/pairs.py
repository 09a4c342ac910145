"""Pairs: the group relative loss over the pairs of a group."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd import groups
from grkd.errors import UserError
from grkd.imports import imported, is_import_path
from grkd.kernels.all_pairs import all_pairs
from grkd.losses import (
    HARD,
    PAIR_FORMS,
    Normalize,
    PairForm,
    pair_form,
    softmax_pairs,
    voted_pairs,
    voted_softmax_pairs,
)
from grkd.objectives._base import LeastTeacher
from grkd.objectives._batch import Batch, Opinions, Votes
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import meant, option
from grkd.objectives.parts._base import AxisPart, Part, batch_mean
from grkd.objectives.parts._score_pair import ScorePair

GroupChoice = Literal["auto", "all", "top", "sample"]

# Up to here "auto" takes every candidate: all pairs of 1,000 cost 2 to 8 ms per row on one thread of a CPU, and a
# thousandth of a millisecond on a GPU. A sample beyond costs less.
_ALL_UP_TO = 1_000


@dataclass(frozen=True, kw_only=True)
class GroupPart(Part):
    """A part that looks at a group of each row's candidates.

    group "auto": all candidates up to 1,000, beyond that a sample. "sample": group_size candidates drawn from
    softmax(t / group_temperature) without replacement.
    """

    group: GroupChoice = option("auto", "candidates of a group: all, the teacher's top, a sample, or auto")
    group_size: int = option(16, "size of a group chosen by top or sample")
    group_temperature: float = option(1.0, "temperature at which a sample is drawn")

    def check(self) -> None:
        above_zero(self.short_name(), self, "group_temperature")
        if self.group_size < 2:
            raise UserError(f"{self.short_name()}: group_size must be 2 or more, got {self.group_size}")

    @property
    def least_candidates(self) -> int:
        return self.group_size if self.group in ("top", "sample") else 2

    def check_candidates(self, candidates: int) -> None:
        if self.choice(candidates) != "all" and self.group_size > candidates:
            name = self.short_name()
            raise UserError(f"{name}: group_size {self.group_size} is larger than the {candidates} candidates")

    def check_for_tokens(self) -> None:
        if self.group == "all":
            text = "all pairs of a vocabulary do not fit into memory; use sample or top with a group_size"
            raise UserError(f"{self.short_name()}: group: {text}")

    def choice(self, candidates: int) -> groups.Choice:
        """The group with "auto" resolved."""
        if self.group == "auto":
            return "all" if candidates <= _ALL_UP_TO else "sample"
        return self.group

    def chosen(self, batch: Batch) -> groups.Group | None:
        """Each row's group; None: all candidates."""
        teacher, seeds = batch.required_teacher(), batch.seeds
        drawn = {"generator": seeds} if isinstance(seeds, torch.Generator) else {"seeds": seeds}
        return groups.choose(
            teacher,
            self.choice(teacher.shape[-1]),
            size=self.group_size,
            temperature=self.group_temperature,
            mask=batch.mask,
            **drawn,
        )


@dataclass(frozen=True, kw_only=True)
class Pairs(AxisPart, GroupPart):
    """The group relative loss: how badly the student orders the pairs that the teacher orders.

    L_GR = (1/Z) sum over pairs with t_i > t_j of value((s_i - s_j) / tau, (t_i - t_j) / tau): losses.group_relative
    pool: softmax: a candidate against all below it in one softmax, log(1 + sum exp(-(s_i - s_j) / tau)), in place of
    their mean (losses.softmax_pairs): the pairs that the student gets most wrong count most.
    over: batch: the same over pairs of rows within each candidate, with log-probabilities at `temperature` as scores.
    A batch with `votes` (Batch.votes) says itself which pairs count and what their targets are: group and target are
    then not read (grkd.losses.voted_pairs). `Opinions` of several teachers are votes on the pairs of the group. Rows
    without a pair do not count.
    Source: arXiv 2504.20482 (hard pairs, all alike, their mean); softmax: InfoNCE (arXiv 1807.03748) over an order.
    """

    tau: float = option(1.0, "scale of score differences")
    target: str | PairForm = option("hard", "form of a pair: hard, soft, or one of your own", choices=("hard", "soft"))
    normalize: Normalize = option("pairs", "divisor of the sum: number of pairs (as in the paper) or of candidates")
    pool: Literal["mean", "softmax"] = option(
        "mean", "combine a candidate's pairs: their mean, or one softmax over it and all below it"
    )
    temperature: float = option(1.0, "over: batch: temperature of the log-probabilities used as scores")

    def check(self) -> None:
        super().check()
        above_zero(self.short_name(), self, "tau", "temperature")
        if self.over == "batch" and self.group in ("top", "sample"):
            raise UserError(f"{self.short_name()}: over: batch compares rows in every class; set group: all or auto")
        if self.form is not HARD and self.pool == "softmax":
            raise UserError(f"{self.short_name()}: pool: softmax reads the order alone; set target: hard")

    def check_candidates(self, candidates: int) -> None:
        if self.over == "batch" and self.choice(candidates) != "all":
            raise UserError(
                f"{self.short_name()}: over: batch compares rows in every class, and group: auto samples of "
                f"{candidates} candidates; set group: all"
            )
        super().check_candidates(candidates)

    def check_for_tokens(self) -> None:
        if self.over == "candidates":
            super().check_for_tokens()

    @property
    def form(self) -> PairForm:
        """The pair form that `target` names. Raises UserError for an unknown one."""
        return form_of(self.short_name(), self.target)

    @property
    def least_teacher(self) -> LeastTeacher:
        order_alone = self.over == "candidates" and self.form is HARD and self.group != "sample"
        return "tiers" if order_alone else "scores"

    @property
    def term_name(self) -> str:
        name = "softmax_pairs" if self.pool == "softmax" else "group_relative"
        return name + ("_over_batch" if self.over == "batch" else "")

    def head_options(self) -> dict[str, Any] | None:
        if self.over == "batch" or self.form.kernel is None or self.pool == "softmax":
            return None
        shared = ("tau", "normalize", "group", "group_size", "group_temperature")
        named = {name: getattr(self, name) for name in shared}
        return {"pair_scale": self.weight, "pair_target": self.form, **named}

    def loss(self, scores: ScorePair, batch: Batch) -> Float[Tensor, "..."]:
        return self.rows_and_counted(scores, batch)[0]

    def rows_and_counted(self, scores: ScorePair, batch: Batch) -> tuple[Float[Tensor, "..."], Bool[Tensor, " rows"]]:
        if self.over == "batch":
            self.check_candidates(scores.student.shape[-1])
            return self._of_columns(scores), scores.counted()
        if isinstance(batch.votes, Votes):
            return self._voted(scores.student, scores.exists, batch.votes)
        student, teacher, exists = scores.student, scores.teacher, scores.exists
        group = self.chosen(batch)
        if group is not None:
            student, teacher = student.gather(-1, group.indices), teacher.gather(-1, group.indices)
            exists = group.mask
        if isinstance(batch.votes, Opinions):
            return self._voted(student, exists, batch.votes.votes(None if group is None else group.indices))
        return self._pairs(student, teacher, exists), groups.has_pair(teacher, mask=exists)

    def _voted(self, student: Tensor, exists: Tensor | None, votes: Votes) -> tuple[Tensor, Tensor]:
        """Pairs by shares of opinions; a softmax takes the majority's word on each pair."""
        options: dict[str, Any] = {"mask": exists, "tau": self.tau, "normalize": self.normalize}
        if self.pool == "mean":
            return voted_pairs(student, votes.targets, votes.weights, **options)
        above = majority(votes, exists)
        return voted_softmax_pairs(student, above, **options), above.any(-1).any(-1)

    def _of_columns(self, scores: ScorePair) -> Float[Tensor, ""]:
        """Mean over the candidates with a pair of rows."""
        columns = scores.columns(self.temperature)
        losses = self._pairs(columns.student, columns.teacher, columns.exists)
        return batch_mean(losses, groups.has_pair(columns.teacher, mask=columns.exists))

    def _pairs(self, student: Tensor, teacher: Tensor, exists: Tensor | None) -> Tensor:
        if self.pool == "softmax":
            return softmax_pairs(student, teacher, mask=exists, tau=self.tau, normalize=self.normalize)
        return all_pairs(student, teacher, mask=exists, tau=self.tau, pair_target=self.form, normalize=self.normalize)


def majority(votes: Votes, exists: Tensor | None) -> Bool[Tensor, "rows candidates candidates"]:
    """Whether more than half of the opinions put i above j; pairs without an opinion are in no order."""
    # Only entries with i < j are read of the targets.
    upper = votes.targets.triu(1)
    share = upper + (1 - votes.targets.transpose(-1, -2)).tril(-1)
    above = share > 0.5
    if votes.weights is not None:
        weights = votes.weights.triu(1)
        above = above & ((weights + weights.transpose(-1, -2)) > 0)
    above = above & ~torch.eye(above.shape[-1], dtype=torch.bool, device=above.device)
    return above if exists is None else above & exists.unsqueeze(-1) & exists.unsqueeze(-2)


def form_of(owner: str, target: str | PairForm) -> PairForm:
    """A pair form by name, import path or as an object. Raises UserError for an unknown one."""
    if isinstance(target, str) and is_import_path(target):
        found = imported(target)
        if not isinstance(found, PairForm):
            raise UserError(f"{owner}: target: {target} is a {type(found).__name__}, it must be a grkd.losses.PairForm")
        return found
    if isinstance(target, str) and target not in PAIR_FORMS:
        known = ", ".join(PAIR_FORMS)
        near = meant(target, PAIR_FORMS)
        raise UserError(f"{owner}: unknown target {target!r}{near}; known: {known}, or package.module:FORM of your own")
    return pair_form(target)


PART = Pairs
