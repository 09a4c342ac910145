"""Rows of the Trainer: a row is a query, its candidates are the list's documents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grkd.lists.context import PreparedLists
from grkd.lists.score import Signal
from grkd.lists.student import Student
from grkd.objectives import Batch, Level, Votes
from grkd.training.rows import Counts, Forward, RowSource, row_seeds


class ListRows(RowSource):
    """Examples are numbers of queries; texts become features when a batch is made."""

    unit = "lists"

    def __init__(self, student: Student, lists: PreparedLists, signal: Signal) -> None:
        self.prepare, self.lists, self.signal = student.prepare, lists, signal

    def collate(self, examples: Sequence[int]) -> dict[str, Any]:
        """Features of the texts, and the teacher's word on the lists, cut to the longest of them."""
        rows = torch.tensor(list(examples))
        width = int(self.lists.exists[rows].sum(-1).max())
        candidates, signal = self.lists.candidates[rows, :width], self.signal
        batch = {
            "inputs": self.prepare([self.lists.queries[one] for one in examples], self.lists.documents, candidates),
            "teacher_scores": signal.scores[rows, :width],
            "exists": signal.exists[rows, :width],
        }
        if signal.shares is not None and signal.weights is not None:
            batch["shares"] = signal.shares[rows, :width, :width]
            batch["weights"] = signal.weights[rows, :width, :width]
        return batch

    def count(self, batch: dict[str, Any]) -> Counts:
        return {"row": len(batch["exists"])}

    def forward(self, model: nn.Module, batch: dict[str, Any], *, levels: Sequence[Level], **_: Any) -> Forward:
        """One batch of rows; there is no fused form, since lists are short."""
        student: Tensor = model(**batch["inputs"]).float()
        rows = torch.arange(len(student), device=student.device)
        votes = Votes(targets=batch["shares"], weights=batch["weights"]) if "shares" in batch else None
        return Forward(
            batches={
                "row": Batch(
                    student=student,
                    teacher=batch["teacher_scores"],
                    mask=batch["exists"],
                    seeds=row_seeds(batch, rows, torch.zeros_like(rows)),
                    votes=votes,
                )
            }
        )
