"""From a model and a batch of data to rows of scores: the protocol, and classifiers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from grkd.data.classification_batches import Collate
from grkd.models.networks import scores
from grkd.objectives import Batch, Level, Objective

Counts = dict[Level, int]
# Of each batch: its optimiser step, and the number of its first example in that step, over micro-batches and ranks.
Places = Sequence[tuple[int, int]]


# Key of a batch's seed, from which every row's own follows; the seeds of two examples lie _EXAMPLE apart.
DRAW_SEED = "draw_seed"
# Key of a micro-batch of training whose examples all belong to another place of the epoch.
REPEATED = "repeated"
_EXAMPLE = 1 << 24


def draw_seed(step_seed: int, first: int) -> int:
    """The seed of a batch whose first example is number `first` of its optimiser step; below 2^63."""
    return (step_seed + first * _EXAMPLE) & ((1 << 63) - 1)


def row_seeds(batch: dict[str, Any], examples: Int[Tensor, " rows"], places: Int[Tensor, " rows"]) -> Tensor | None:
    """A seed per row, by its example's number in the batch and its place in the example; None in a batch without."""
    return batch[DRAW_SEED] + seed_offset(examples, places) if DRAW_SEED in batch else None


def seed_offset(example: "Tensor | int", place: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """By how much a row's seed lies above its batch's."""
    return example * _EXAMPLE + place


def moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@dataclass(frozen=True, kw_only=True)
class Forward:
    """Result of one forward pass of the student: one batch per level, still attached to the autograd graph.

    head_inputs: inputs of grkd.kernels.distillation_head, in place of the batch of rows.
    """

    batches: dict[Level, Batch] = field(default_factory=dict)
    head_inputs: dict[str, Any] | None = None


@runtime_checkable
class RowSource(Protocol):
    """How a task makes rows. By default nothing is sampled in training, and batches hold the teacher's scores."""

    unit: str

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch from examples of the data set."""

    def count(self, batch: dict[str, Any]) -> Counts:
        """Number of rows in a batch at each level, known before any model runs."""

    def forward(
        self,
        model: nn.Module,
        batch: dict[str, Any],
        *,
        levels: Sequence[Level],
        fused: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Forward:
        """The scores of the levels asked for.

        fused: head_inputs instead of the batch of rows, if that is possible. dtype: of the student's hidden states
        there (autocast's, if it is on).
        """

    def renew(
        self, model: nn.Module, batches: Sequence[dict[str, Any]], objective: Objective, *, seed: int, places: Places
    ) -> list[dict[str, Any]]:
        """The batches with their on-policy share answered again by the student.

        Draws depend on the seed and a row's place in training, never on how a step is split.
        """
        raise ValueError(f"nothing writes responses to {self.unit}: an on-policy method is for language models")

    def fresh_share(self, objective: Objective) -> float:
        """Share of the examples that are answered again in training. Raises UserError if that cannot be."""
        return objective.on_policy

    def passes(self, batch: dict[str, Any], *, whole: bool = False) -> list[dict[str, Any]]:
        """The parts of a micro-batch that go through the models one after the other; whole: only one."""
        return [batch]

    def to(self, device: torch.device, *, student: nn.Module | None = None, dtype: torch.dtype | None = None) -> None:
        """Move what the teacher needs to the student's device, and prepare both models for these batches.

        dtype: in which the student's attention runs.
        """
        return

    def taken(self) -> dict[str, tuple[float, int]]:
        """(sum, count) since the last call, by the name of the mean in the log; counting starts again."""
        return {}


def since_the_last_log(rows: RowSource, steps: int, accelerator: Any) -> dict[str, float]:
    """Mean seconds per optimiser step of what a source has timed, and means over all ranks of what it has counted."""
    seconds: dict[str, float] = getattr(rows, "seconds", {})
    found = {f"seconds/{name}": value / max(1, steps) for name, value in seconds.items()}
    seconds.clear()
    return found | means_over_ranks(rows.taken(), accelerator)


def means_over_ranks(sums: Mapping[str, tuple[float, int]], accelerator: Any) -> dict[str, float]:
    """The mean of each name, sum / count over all ranks. Ranks hold the same names; without a count a name is left out.

    sums: (sum, count) by name.
    """
    if not sums:
        return {}
    own = torch.tensor([list(map(float, each)) for each in sums.values()], dtype=torch.float64)
    totals = accelerator.reduce(own.to(accelerator.device), reduction="sum").tolist()
    return {name: total / over for name, (total, over) in zip(sums, totals, strict=True) if over}


class ClassRows(RowSource):
    """A row is an example, a candidate a class. The teacher's scores come with the batch."""

    unit = "examples"

    def __init__(self, collate: Collate | Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self._collate = collate

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        return self._collate(examples)

    def count(self, batch: dict[str, Any]) -> Counts:
        return {"row": len(batch["labels"])}

    def forward(self, model: nn.Module, batch: dict[str, Any], *, levels: Sequence[Level], **_: Any) -> Forward:
        """One batch of rows; there is no fused form, since a classifier's logits are small."""
        student = scores(model, batch["student_inputs"])
        examples = torch.arange(len(student), device=student.device)
        return Forward(
            batches={
                "row": Batch(
                    student=student,
                    teacher=batch.get("teacher_scores"),
                    labels=batch["labels"],
                    seeds=row_seeds(batch, examples, torch.zeros_like(examples)),
                )
            }
        )
