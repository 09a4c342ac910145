"""What the rank task finds of one student: metrics with intervals over prompts, and a record per item."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from grkd.benchmarks._rank_models import (
    ENTRIES,
    CachedTeacher,
    LiveTeacher,
    OtherTokens,
    StoredTeacher,
    Student,
    check_finite,
)
from grkd.benchmarks._rank_sources import ResponseGroup, RunSource
from grkd.console import track
from grkd.data.language import Item, response_logits
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.files import digest
from grkd.metrics.rank_measures import (
    calibration_interval,
    gaps_interval,
    grade_measures,
    per_prompt,
    response_measures,
    token_measures,
    token_record,
)
from grkd.metrics.registry import metric_of
from grkd.models.load import check_same_vocabulary, load_tokenizer
from grkd.statistics import Interval, bootstrap_interval, bootstrap_ratio

Kind = TypeVar("Kind")
Teacher = LiveTeacher | CachedTeacher | StoredTeacher
Scores = Sequence[Sequence[float]]  # of each prompt's responses


class RankMeasurement:
    """One student, what it is measured against, and what was found so far."""

    def __init__(self, student: Student, teacher: str | None, *, top_k: int, seed: int) -> None:
        self.student, self.teacher_name = student, teacher
        self.teacher_identity: str | None = None
        self.teacher_score: str | None = None
        self.tokens_left_out: str | None = None
        self.top_k, self.seed = top_k, seed
        self.metrics: dict[str, dict[str, float | None]] = {}
        self.items: dict[str, dict[str, Any]] = {}

    def run_folder(self, source: RunSource) -> None:
        """Token level, and response level where the run has several responses to a prompt."""
        student, named = self.student, self.teacher_name
        check_same_vocabulary(load_tokenizer(str(source.tokenizer)), student.tokenizer)
        student.vocabulary, student.pad_token_id = source.vocabulary, source.pad_token_id
        self.teacher_name = named or source.teacher
        ordered = {name: [item for item in items if item.id in source.scores] for name, items in source.groups.items()}
        several = {name: items for name, items in ordered.items() if len(items) > 1}
        teacher = self._teacher_of(source, named, stored_is_enough=bool(several))
        if not isinstance(teacher, LiveTeacher):
            self.teacher_identity = source.scored_by()
        if teacher is not None:
            self._tokens(source.groups, teacher)
        if not several:
            return
        groups = list(several.values())
        log_probs: Scores | None = None
        if named is None:
            scores = [[source.scores[item.id] for item in items] for items in groups]
            if all(item.id in source.log_probs for items in groups for item in items):  # a chat API gives none
                log_probs = [[source.log_probs[item.id] for item in items] for items in groups]
        else:
            assert isinstance(teacher, LiveTeacher)
            scores = log_probs = student.means(teacher, groups)
        self.teacher_score = "reward" if named is None and source.rewarded else "mean log-probability"
        self._responses("response", several, student.means(student, groups), scores, log_probs)

    def _teacher_of(self, source: RunSource, named: str | None, *, stored_is_enough: bool) -> Teacher | None:
        """The teacher of tokens; None if none has the student's, and the run's scores of responses are there."""
        if named is None and source.cache is not None:
            return CachedTeacher(source.cache, self.student)
        if named is None and source.elsewhere and source.stored is not None:
            return StoredTeacher(source.stored, self.student, folder=source.folder / "score")
        if named is None and source.elsewhere and stored_is_enough:
            self.tokens_left_out = "the run has stored no teacher's scores of tokens"
            return None
        try:
            return self._live_teacher()
        except OtherTokens as error:
            if named is not None or not stored_is_enough:
                raise
            self.tokens_left_out = str(error)
            return None

    def examples(self, examples: Sequence[Example]) -> None:
        """Token level on prompts and completions."""
        teacher = self._live_teacher()
        encoded = self.student.encoded([(example, [example]) for example in examples])
        self._tokens({items[0].id: items for items in _some([items for items in encoded if items])}, teacher)

    def groups(self, groups: Sequence[ResponseGroup]) -> None:
        """Response level: against the grades, and against the teacher if there is one."""
        student = self.student
        if any(group.grades is None for group in groups):
            self._named_teacher()
        encoded = student.encoded([(group.prompt, group.answers) for group in groups])
        kept = _some([(group, items) for group, items in zip(groups, encoded, strict=True) if items])
        by_prompt = {group.prompt.id: items for group, items in kept}
        means = student.means(student, list(by_prompt.values()))
        graded = [(group, group.grades, row) for (group, _), row in zip(kept, means, strict=True) if group.grades]
        if graded:
            these = {group.prompt.id: by_prompt[group.prompt.id] for group, _, _ in graded}
            grades = [found for _, found, _ in graded]
            self._responses("grade", these, [row for _, _, row in graded], grades, grades)
        if self.teacher_name is not None:
            scores = student.means(self._live_teacher(), list(by_prompt.values()))
            self._responses("response", by_prompt, means, scores, scores)

    def _tokens(self, groups: Mapping[str, Sequence[Item]], teacher: Teacher) -> None:
        """token_ metrics over whole prompts, and one record per response."""
        items = [item for found in groups.values() for item in found]
        records = self._token_records(items, teacher)
        prompts = np.arange(len(groups)).repeat([len(found) for found in groups.values()])
        gaps, tokens = (per_prompt(prompts, [record[key] for record in records]) for key in ("gaps", "tokens"))
        self._note("token_expected_calibration_error", gaps_interval(gaps, tokens, seed=self.seed))
        for name in records[0]["sums"]:
            sums, counts = (
                per_prompt(prompts, [record[key][name] for record in records]) for key in ("sums", "counts")
            )
            self._note(f"token_{name}", bootstrap_ratio(sums, counts, seed=self.seed))
        of_item = {item.id: name for name, found in groups.items() for item in found}
        for item, record in zip(items, records, strict=True):
            group = {"group": of_item[item.id]} if of_item[item.id] != item.id else {}
            counts = record["counts"]
            means = {
                f"token_{name}": total / counts[name] if counts[name] else None
                for name, total in record["sums"].items()
            }
            self._record(item.id, {"asked": _asked([item]), **group, "tokens": record["tokens"], **means})

    @torch.no_grad()
    def _token_records(self, items: Sequence[Item], teacher: Teacher) -> list[dict[str, Any]]:
        """What was measured of every item's tokens; batches are the same whatever is in the journal."""
        student, journal = self.student, self.student.journal
        models = [student.identity, student.precision, teacher.identity, teacher.precision]
        measured = ["tokens", *models, min(self.top_k, student.vocabulary)]
        keys = [digest([*measured, item.prompt_ids, item.response_ids]) for item in items]
        batches = [
            range(at, min(at + student.batch_size, len(items))) for at in range(0, len(items), student.batch_size)
        ]
        missing = [batch for batch in batches if any(keys[number] not in journal for number in batch)]
        for numbers in track(missing, "rank: tokens", unit="batch") if missing else ():
            part = [items[number] for number in numbers]
            for number, measures in zip(numbers, self._token_measures(part, teacher), strict=True):
                journal.add(keys[number], {"id": items[number].id, **token_record(measures)})
        return [journal[key] for key in keys]

    def _token_measures(self, items: Sequence[Item], teacher: Teacher) -> list[dict[str, Tensor]]:
        """Every measure of every response token, item after item."""
        student = self.student
        rows = max(1, ENTRIES // 4 // student.vocabulary)  # several float64 tensors of as many live together
        batch = student.batch(items)
        mask = batch["response_mask"]
        logits = response_logits(student.model, batch)[mask][:, : student.vocabulary]
        teacher_logits = teacher.logits(items, batch)[:, : student.vocabulary]
        for scores in (logits, teacher_logits):
            check_finite(scores, items)
        columns: dict[str, list[Tensor]] = {}
        tensors = (logits, teacher_logits, batch["response_ids"][mask])
        for chunk in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
            for name, values in token_measures(*chunk, top_k=min(self.top_k, student.vocabulary)).items():
                if name in teacher.unknown:
                    continue
                columns.setdefault(name, []).append(values)
        lengths = [len(item.response_ids) for item in items]
        # Off the device once per measure, and widened where memory is cheap.
        whole = {name: torch.cat(parts).cpu().double().split(lengths) for name, parts in columns.items()}
        return [{name: parts[number] for name, parts in whole.items()} for number in range(len(items))]

    def _responses(
        self,
        prefix: str,
        groups: Mapping[str, Sequence[Item]],
        means: Scores,
        scores: Scores,
        log_probs: Scores | None,
    ) -> None:
        """response_ or grade_ metrics, and one record per prompt. log_probs: None if the teacher gave none."""
        (student, mask), (order, _) = _padded(means), _padded(scores)
        teacher = None if log_probs is None else _padded(log_probs)[0]
        if prefix == "grade":
            measures = grade_measures(student, order, mask)
        else:
            measures = response_measures(student, order, mask, teacher_log_probs=teacher)
            if teacher is None:
                del measures["forward_kl_nats"], measures["reverse_kl_nats"]
        found = {name: values.double().numpy() for name, values in measures.items()}
        if (confidence := found.pop("confidence", None)) is not None:
            correct = found["top1_agreement"]
            known = ~np.isnan(correct)
            error = calibration_interval(confidence[known], correct[known], np.arange(known.sum()), seed=self.seed)
            self._note(f"{prefix}_expected_calibration_error", error)
        for name, values in found.items():
            share = metric_of(f"response_{name}").is_share
            self._note(f"{prefix}_{name}", bootstrap_interval(values, seed=self.seed, share=share))
        for number, (group, items) in enumerate(groups.items()):
            known = {name: float(values[number]) for name, values in found.items()}
            row = {f"{prefix}_{name}": None if np.isnan(value) else value for name, value in known.items()}
            self._record(group, {"asked": _asked(items), "responses": len(items), **row})

    def _live_teacher(self) -> LiveTeacher:
        teacher = LiveTeacher(self._named_teacher(), self.student)
        self.teacher_identity = teacher.identity
        return teacher

    def _named_teacher(self) -> str:
        if self.teacher_name is None:
            raise UserError(
                "rank: name the teacher whose order is measured; the data holds neither its scores nor grades"
            )
        return self.teacher_name

    def _record(self, name: str, record: dict[str, Any]) -> None:
        self.items[name] = self.items.get(name, {}) | record

    def _note(self, name: str, interval: Interval) -> None:
        self.metrics[name] = interval.as_json()


def _asked(items: Sequence[Item]) -> str:
    return digest([[item.prompt_ids, item.response_ids] for item in items])[:16]


def _some(found: list[Kind]) -> list[Kind]:
    if not found:
        raise UserError("rank: no prompt leaves room for a response in the student's context; give shorter prompts")
    return found


def _padded(rows: Scores) -> tuple[Tensor, Tensor]:
    """[rows, longest] in float64 and its mask."""
    longest = max(map(len, rows))
    values = torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows], dtype=torch.float64)
    return values, torch.arange(longest) < torch.tensor([len(row) for row in rows]).unsqueeze(-1)
