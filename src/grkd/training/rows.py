"""From a model and a batch of data to rows of scores: what differs between language models and classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grkd.data.classification_batches import Collate
from grkd.data.language import Item, captured_hidden, collate, response_logits
from grkd.teachers.classifiers import scores
from grkd.teachers.signal import HiddenCache, TeacherHead, final_hidden


@dataclass(frozen=True)
class Rows:
    """Scores of one micro-batch: student and teacher [rows, candidates], labels [rows]."""

    student: Float[Tensor, "rows candidates"]
    teacher: Float[Tensor, "rows candidates"] | None
    labels: Int[Tensor, " rows"] | None


@runtime_checkable
class RowSource(Protocol):
    """How a task makes rows."""

    unit: str

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch from examples of the data set."""

    def count(self, batch: dict[str, Any]) -> int:
        """Number of rows in a batch, known before any model runs."""

    def rows(self, model: nn.Module, batch: dict[str, Any]) -> Rows:
        """The scores, with the student's graph."""

    def head_inputs(self, model: nn.Module, batch: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any] | None:
        """Inputs of grkd.kernels.distillation_head, or None where logits must be had."""

    def to(self, device: torch.device) -> None:
        """Move what the teacher needs to the student's device."""


class LanguageRows:
    """A row is a response token, a candidate a vocabulary entry.

    The teacher is a live model, or a cache of its hidden states with its head, or absent (methods without a teacher).
    Candidates beyond `vocabulary` are padding of the embedding matrices and are cut on both sides.
    """

    unit = "tokens"

    def __init__(
        self,
        *,
        pad_token_id: int,
        vocabulary: int,
        teacher: Any = None,
        cache: HiddenCache | None = None,
        head: TeacherHead | None = None,
    ) -> None:
        if (cache is None) != (head is None) or (cache is not None and teacher is not None):
            raise ValueError("give a live teacher, or a cache and its head, or neither")
        self.pad_token_id, self.vocabulary = pad_token_id, vocabulary
        self.teacher, self.cache, self.head = teacher, cache, head

    def collate(self, examples: Sequence[Item]) -> dict[str, Any]:
        batch = collate(examples, pad_token_id=self.pad_token_id)
        if self.cache is not None:
            # Rows in the order of response_mask: item by item, each token of its response.
            batch["teacher_hidden"] = torch.cat([self.cache[item.id] for item in examples])
        return batch

    def count(self, batch: dict[str, Any]) -> int:
        return int(batch["response_mask"].sum())

    def rows(self, model: nn.Module, batch: dict[str, Any]) -> Rows:
        mask = batch["response_mask"]
        student = response_logits(model, batch)[mask][:, : self.vocabulary]
        return Rows(student, self._teacher_scores(batch), batch["response_ids"][mask])

    def head_inputs(self, model: nn.Module, batch: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any] | None:
        """What grkd.kernels.distillation_head reads, both sides' hidden states and heads; None where a head is special.

        dtype: of the student's hidden states (autocast's, where it is on).
        """
        if self.cache is None and self.teacher is None:
            return None
        teacher = self.head if self.head is not None else TeacherHead.of(self.teacher)
        captured = captured_hidden(model, batch) if teacher.scale == 1.0 else None
        if captured is None:
            return None
        hidden, head, softcap = captured
        mask = batch["response_mask"]
        if self.head is not None:
            teacher_hidden = batch["teacher_hidden"]
        else:
            with torch.no_grad():
                teacher_hidden = final_hidden(self.teacher, batch)[mask]
        hidden = hidden[mask]
        return {
            "student_hidden": hidden if dtype is None else hidden.to(dtype),
            "student_weight": head.weight,
            "student_bias": head.bias,
            "student_softcap": softcap,
            "teacher_hidden": teacher_hidden,
            "teacher_weight": teacher.weight,
            "teacher_bias": teacher.bias,
            "teacher_softcap": teacher.softcap,
            "vocabulary": self.vocabulary,
        }

    def to(self, device: torch.device) -> None:
        for module in (self.teacher, self.head):
            if module is not None:
                module.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def _teacher_scores(self, batch: dict[str, Any]) -> Tensor | None:
        if self.head is not None:
            return self.head(batch["teacher_hidden"])[:, : self.vocabulary]
        if self.teacher is not None:
            return response_logits(self.teacher, batch)[batch["response_mask"]][:, : self.vocabulary]
        return None


class ClassRows:
    """A row is an example, a candidate a class. The teacher's scores come with the batch."""

    unit = "examples"

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def count(self, batch: dict[str, Any]) -> int:
        return len(batch["labels"])

    def rows(self, model: nn.Module, batch: dict[str, Any]) -> Rows:
        return Rows(scores(model, batch["student_inputs"]), batch.get("teacher_scores"), batch["labels"])

    def head_inputs(self, model: nn.Module, batch: dict[str, Any], dtype: torch.dtype | None) -> None:
        """None: a classifier's logits are small."""

    def to(self, device: torch.device) -> None:
        """Nothing to move: the teacher has spoken already."""
