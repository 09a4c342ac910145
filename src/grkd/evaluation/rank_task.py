"""The rank task: how well a student folder has learnt an order, with bootstrap intervals over prompts.

Three prefixes say what is compared:
token_     rows are held-out response tokens, candidates the vocabulary, the order is the teacher's logits;
response_  rows are prompts, candidates several responses to each, the order is the teacher's mean log-probability;
grade_     the same rows, the order is a grade that came with the responses (a judge's, a person's).
The student's score of a response is always its mean log-probability, nats a token.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grkd.console import track
from grkd.data.language import Item, response_logits
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.evaluation._rank_measures import calibration_interval, grade_measures, response_measures, token_measures
from grkd.evaluation._rank_models import ENTRIES, Student, TeacherLogits, cached, live
from grkd.evaluation._rank_sources import ResponseGroup, RunSource, read_graded, read_prompts, read_run, same_prompt
from grkd.evaluation.statistics import Interval, bootstrap_interval
from grkd.teachers.models import check_same_vocabulary, load_tokenizer

Kind = TypeVar("Kind")


def run(
    model: str,
    source: Path,
    *,
    teacher: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    top_k: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank fidelity of a student (folder or hub name): {"metrics": {name: {value, low, high}}, "items", "settings"}.

    source: a run folder of grkd (its held-out responses; the teacher is the run's, as cached, unless `teacher` names
    another); a JSONL file of prompts with "completion" (token level; `teacher` is needed) or with "responses" and
    "grades" (response level); or a Parquet file of graded responses.
    teacher: a folder or hub name; with groups it also gives response_ measures, against its own log-probabilities.
    limit: the first so many responses or prompts. top_k: the teacher's candidates within which the order of tokens is
    measured. seed: of the bootstrap. items: one record a prompt (or response, at token level), for paired tests.
    settings.responses_cut counts responses cut to the model's context; prompts that leave no room are dropped.
    Raises UserError for sources and models that cannot be read, vocabularies that differ, or a teacher that is missing.
    """
    if top_k < 2:
        raise UserError(f"rank: top_k must be 2 or more, got {top_k}")
    student = Student(model, device=device, batch_size=batch_size)
    task = _Task(student, teacher, top_k=top_k, seed=seed)
    if source.is_dir():
        task.run_folder(read_run(source, limit=limit))
    elif source.suffix == ".parquet":
        task.groups(read_graded(source, limit=limit))
    else:
        examples, found = read_prompts(source, limit=limit)
        if examples:
            task.examples(examples)
        else:
            task.groups(found)
    settings = {"source": str(source), "teacher": task.teacher_name, "limit": limit, "top_k": top_k, "seed": seed}
    return {
        "metrics": task.metrics,
        "items": [{"id": name, **record} for name, record in task.items.items()],
        "settings": {**settings, "responses_cut": student.cut, "prompts_dropped": student.dropped},
    }


class _Task:
    """One student, what it is measured against, and what was found so far."""

    def __init__(self, student: Student, teacher: str | None, *, top_k: int, seed: int) -> None:
        self.student, self.teacher_name = student, teacher
        self.top_k, self.seed = top_k, seed
        self.metrics: dict[str, dict[str, float | None]] = {}
        self.items: dict[str, dict[str, Any]] = {}

    def run_folder(self, source: RunSource) -> None:
        """Token level, and response level where the run has several responses to a prompt."""
        student = self.student
        check_same_vocabulary(load_tokenizer(str(source.tokenizer)), student.tokenizer)
        student.vocabulary, student.pad_token_id = source.vocabulary, source.pad_token_id
        groups = same_prompt(source.items)
        if self.teacher_name is None and source.cache is not None:
            self.teacher_name = source.teacher
            self._tokens(source.items, cached(source.cache, student.model.device))
            scores = [[source.scores[item.id] for item in group] for group in groups]
        else:
            self.teacher_name = self.teacher_name or source.teacher
            teacher = student.teacher(self._named_teacher())
            self._tokens(source.items, live(teacher))
            scores = student.means(teacher, groups)
        if groups:
            self._responses("response", [group[0].id for group in groups], student.means(student.model, groups), scores)

    def examples(self, examples: Sequence[Example]) -> None:
        """Token level on prompts and completions."""
        teacher = self.student.teacher(self._named_teacher())
        encoded = self.student.encoded([(example, [example]) for example in examples])
        self._tokens(_some([item for items in encoded for item in items]), live(teacher))

    def groups(self, groups: Sequence[ResponseGroup]) -> None:
        """Response level: against the grades, and against the teacher where there is one."""
        student = self.student
        if any(group.grades is None for group in groups):
            self._named_teacher()
        encoded = student.encoded([(group.prompt, group.answers) for group in groups])
        kept = _some([(group, items) for group, items in zip(groups, encoded, strict=True) if items])
        items = [part for _, part in kept]
        means = student.means(student.model, items)
        graded = [(group, group.grades, row) for (group, _), row in zip(kept, means, strict=True) if group.grades]
        if graded:
            ids, grades, rows = zip(*((group.prompt.id, [*found], row) for group, found, row in graded), strict=True)
            self._responses("grade", ids, rows, grades)
        if self.teacher_name is not None:
            scores = student.means(student.teacher(self.teacher_name), items)
            self._responses("response", [group.prompt.id for group, _ in kept], means, scores)

    def _tokens(self, items: Sequence[Item], teacher_logits: TeacherLogits) -> None:
        """token_ metrics, and one record a response."""
        found = self._token_columns(items, teacher_logits)
        lengths = np.array([len(item.response_ids) for item in items])
        prompts = np.arange(len(items)).repeat(lengths)
        error = calibration_interval(found.pop("confidence"), found["correct"], prompts, seed=self.seed)
        self._note("token_expected_calibration_error", error)
        for name, values in found.items():
            self._note(f"token_{name}", bootstrap_interval(values, groups=prompts, seed=self.seed))
        ids, ends = [item.id for item in items], lengths.cumsum()[:-1]
        self._record(ids, {"tokens": lengths.tolist()})
        means = {f"token_{name}": [_mean(part) for part in np.split(values, ends)] for name, values in found.items()}
        self._record(ids, means)

    @torch.no_grad()
    def _token_columns(self, items: Sequence[Item], teacher_logits: TeacherLogits) -> dict[str, NDArray[np.float64]]:
        """Every measure of every response token, item after item."""
        student, columns = self.student, dict[str, list[Tensor]]()
        rows = max(1, ENTRIES // 4 // student.vocabulary)  # several float64 tensors of as many live together
        for at in track(range(0, len(items), student.batch_size), "rank: tokens", unit="batch"):
            part = items[at : at + student.batch_size]
            batch = student.batch(part)
            mask = batch["response_mask"]
            logits = response_logits(student.model, batch)[mask][:, : student.vocabulary]
            teacher = teacher_logits(part, batch)[:, : student.vocabulary]
            tensors = (logits, teacher, batch["response_ids"][mask])
            for chunk in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
                for name, values in token_measures(*chunk, top_k=min(self.top_k, student.vocabulary)).items():
                    columns.setdefault(name, []).append(values.double().cpu())
        return {name: torch.cat(parts).numpy() for name, parts in columns.items()}

    def _responses(
        self, prefix: str, ids: Sequence[str], means: Sequence[list[float]], reference: Sequence[list[float]]
    ) -> None:
        """response_ or grade_ metrics, and one record a prompt."""
        student, mask = _padded(means)
        order, _ = _padded(reference)
        measures = grade_measures if prefix == "grade" else response_measures
        found = {name: values.double().numpy() for name, values in measures(student, order, mask).items()}
        if (confidence := found.pop("confidence", None)) is not None:
            error = calibration_interval(confidence, found["top1_agreement"], np.arange(len(ids)), seed=self.seed)
            self._note(f"{prefix}_expected_calibration_error", error)
        for name, values in found.items():
            self._note(f"{prefix}_{name}", bootstrap_interval(values, seed=self.seed))
        self._record(ids, {"responses": mask.sum(-1).tolist()})
        self._record(
            ids, {f"{prefix}_{name}": [_mean(value) for value in values[:, None]] for name, values in found.items()}
        )

    def _named_teacher(self) -> str:
        if self.teacher_name is None:
            raise UserError(
                "rank: name the teacher whose order is measured; the data holds neither its scores nor grades"
            )
        return self.teacher_name

    def _record(self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        for number, name in enumerate(ids):
            record = self.items.setdefault(name, {})
            record |= {column: values[number] for column, values in columns.items()}

    def _note(self, name: str, interval: Interval) -> None:
        self.metrics[name] = interval.as_json()


def _some(found: list[Kind]) -> list[Kind]:
    if not found:
        raise UserError("rank: no prompt leaves room for a response in the student's context; give shorter prompts")
    return found


def _padded(rows: Sequence[list[float]]) -> tuple[Tensor, Tensor]:
    """[rows, longest] in float64 and its mask."""
    longest = max(map(len, rows))
    values = torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows], dtype=torch.float64)
    return values, torch.arange(longest) < torch.tensor([len(row) for row in rows]).unsqueeze(-1)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
