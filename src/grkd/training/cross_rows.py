"""Rows of tokens beside a teacher of another vocabulary: places and spans where the two tokenisations meet."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grkd.data.language import Group, Item
from grkd.groups import wide
from grkd.models.shard import is_sharded
from grkd.objectives import Across, Batch
from grkd.rankers import Tally
from grkd.teacher.crossing import Crossing, spans
from grkd.teacher.stored_scores import StoredScores
from grkd.training.language_rows import LanguageRows
from grkd.training.own_tokens import PLACES, LiveScores
from grkd.training.rows import Counts
from grkd.training.token_rows import log_probs_of_logits, token_seeds

_NOTHING = -1e4  # score of an entry that a shorter vocabulary lacks
_SIGNAL = "foreign/"
_MET, _LEFT_OUT = "crossing/tokens_with_a_teacher", "crossing/teacher_mass_left_out"  # shares, in [0, 1]


class CrossRows(LanguageRows):
    """LanguageRows with a teacher whose tokens of the same responses are others.

    across: what a row is, see grkd.objectives.Objective.across_vocabularies.
    "shared": a place where both predict what comes next; candidates are the tokens that both spell.
    "whole": such a place; each side's entries in an order of its own, the shorter side filled up with nothing.
    "spans": the text between two such places; candidates are that span and any other.
    own: a group's responses as the teacher's tokens. foreign: its scores of them, stored or made in every step.
    """

    def __init__(
        self,
        *,
        across: Across,
        crossing: Crossing,
        own: Callable[[Group], Sequence[Item]],
        foreign: StoredScores,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.across, self.crossing, self.own, self.foreign = across, crossing, own, foreign
        # Since the last log: of every process the same names.
        self.notes = dict.fromkeys((_MET, _LEFT_OUT) if across == "shared" else (_MET,), Tally(0.0, 0))

    def collate_all(self, groups: Sequence[Group]) -> dict[str, Any]:
        batch = super().collate_all(groups)
        items = [item for group in groups for item in group.items]
        own = [item for group in groups for item in self.own(group)]
        meetings = [
            self.crossing.meeting(one.response_ids, two.response_ids) for one, two in zip(items, own, strict=True)
        ]
        signal = self.foreign.collate(own)
        if self.across == "spans":
            batch |= _spans(items, own, [(each.student, each.teacher) for each in meetings])
            batch["foreign_labels"] = torch.tensor([token for item in own for token in item.response_ids])
        else:
            places = [
                _offset([each.student for each in meetings], items),
                _offset([each.teacher for each in meetings], own),
            ]
            batch["cross_student"], batch["cross_teacher"] = places
            if isinstance(self.foreign, LiveScores):
                signal[PLACES] = places[1]
            else:
                signal = {name: rows[places[1]] for name, rows in signal.items()}
        return batch | {_SIGNAL + name: rows for name, rows in signal.items()}

    def rows_of(self, group: Group) -> list[int]:
        pairs = zip(group.items, self.own(group), strict=True)
        return [len(self.crossing.meeting(one.response_ids, two.response_ids).student) for one, two in pairs]

    def count(self, batch: dict[str, Any]) -> Counts:
        rows = batch["cross_spans"] if self.across == "spans" else batch["cross_student"]
        # The last response may meet nowhere: one that was cut within the teacher's first token.
        number = int(rows.max()) + 1 if self.across == "spans" else len(rows)
        return {**super().count(batch), "row": number}

    def to(self, device: torch.device, *, student: nn.Module | None = None, dtype: torch.dtype | None = None) -> None:
        super().to(device, student=student, dtype=dtype)
        if isinstance(self.foreign, LiveScores) and not is_sharded(self.foreign.model):
            self.foreign.model.to(device).eval().requires_grad_(False)

    def _token_rows(self, student: Tensor, batch: dict[str, Any], labels: Tensor) -> Batch:
        signal = {name.removeprefix(_SIGNAL): rows for name, rows in batch.items() if name.startswith(_SIGNAL)}
        teacher = self.foreign.scores(signal, vocabulary=len(self.crossing.teacher))
        assert teacher is not None
        if torch.is_grad_enabled():
            self._note(teacher, met=self.count(batch)["row"], tokens=len(student))
        if self.across == "spans":
            return self._of_spans(student, teacher, batch, labels)
        student, seeds = student[batch["cross_student"]], token_seeds(batch)
        seeds = None if seeds is None else seeds[batch["cross_student"]]  # a place draws by its token of the student
        if self.across == "whole":
            width = max(student.shape[-1], teacher.shape[-1])
            return Batch(student=_widened(student, width), teacher=_widened(teacher, width), seeds=seeds)
        ids, others = (each.to(student.device) for each in (self.crossing.student_ids, self.crossing.teacher_ids))
        return Batch(student=student[:, ids], teacher=teacher[:, others], seeds=seeds)

    def taken(self) -> dict[str, tuple[float, int]]:
        found, self.notes = self.notes, dict.fromkeys(self.notes, Tally(0.0, 0))
        return super().taken() | found

    def _note(self, teacher: Tensor, *, met: int, tokens: int) -> None:
        """For the log: how many of the student's tokens have a teacher, and how much of its probability is left out."""
        self.notes[_MET] += Tally(float(met), tokens)
        if self.across == "shared":
            left_out = (1 - shared_mass(teacher.detach(), self.crossing)).sum()
            self.notes[_LEFT_OUT] += Tally(float(left_out), len(teacher))

    def _of_spans(self, student: Tensor, teacher: Tensor, batch: dict[str, Any], labels: Tensor) -> Batch:
        rows = self.count(batch)["row"]
        sums = [
            _summed(log_probs_of_logits(scores, own), number, rows)
            for scores, own, number in (
                (student, labels, batch["cross_spans"]),
                (teacher, batch["foreign_labels"], batch["cross_teacher_spans"]),
            )
        ]
        return Batch(
            student=_or_any_other(sums[0]),
            teacher=_or_any_other(sums[1]),
            labels=torch.zeros(rows, dtype=torch.long, device=student.device),
        )


def shared_mass(teacher: Float[Tensor, "rows vocabulary"], crossing: Crossing) -> Float[Tensor, " rows"]:
    """Share of the teacher's probability that is on the tokens that both vocabularies spell; the rest is left out."""
    return wide(teacher).log_softmax(-1)[:, crossing.teacher_ids.to(teacher.device)].exp().sum(-1)


def _offset(places: Sequence[Sequence[int]], items: Sequence[Item]) -> Int[Tensor, " rows"]:
    """Places in responses as rows of a batch, in which tokens stand response by response."""
    found, start = [], 0
    for each, item in zip(places, items, strict=True):
        found += [start + place for place in each]
        start += len(item.response_ids)
    return torch.tensor(found, dtype=torch.long)


def _spans(
    items: Sequence[Item], own: Sequence[Item], places: Sequence[tuple[list[int], list[int]]]
) -> dict[str, Tensor]:
    """The span that each token of both sides is in, numbered over the batch; -1: in none."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    start = 0
    for item, other, both in zip(items, own, places, strict=True):
        for side, tokens, at in zip(found, (item.response_ids, other.response_ids), both, strict=True):
            numbers = spans(at, len(tokens))
            side.append(torch.where(numbers < 0, numbers, numbers + start))
        start += len(both[0])
    return {"cross_spans": torch.cat(found[0]), "cross_teacher_spans": torch.cat(found[1])}


def _summed(log_probs: Tensor, spans: Tensor, rows: int) -> Tensor:
    known = spans >= 0
    return torch.zeros(rows, dtype=log_probs.dtype, device=log_probs.device).index_add(
        0, spans[known], log_probs[known]
    )


def _or_any_other(log_probs: Float[Tensor, " rows"]) -> Float[Tensor, "rows 2"]:
    """log P and log (1 - P): of a span, and of any other."""
    own = log_probs.clamp_max(-1e-6)
    return torch.stack([own, torch.log(-torch.expm1(own))], -1)


def _widened(scores: Float[Tensor, "rows entries"], width: int) -> Float[Tensor, "rows width"]:
    return torch.nn.functional.pad(scores, (0, width - scores.shape[-1]), value=_NOTHING)
