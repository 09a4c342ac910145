"""What both forms of the head take and give."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Both logits of a chunk on CUDA: the teacher's are cut into quarters if they would take more.
LOGITS_BYTES = 1_300 << 20


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """Detached tensors of one call; the weights are already cut to the common vocabulary.

    student_hidden [rows, student_width], student_weight [vocabulary, student_width], likewise the teacher's;
    biases [vocabulary] or None; weights [rows] in float32, 0 if a row is masked;
    inverse_rows: 0-d float32, one over the divisor; indices: [rows, group], -1 if a row has fewer, or None.
    seeds: [rows] int64, of the draw of each row's group; without them the generator draws.
    """

    student_hidden: Tensor
    student_weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    student_bias: Tensor | None
    teacher_bias: Tensor | None
    weights: Tensor
    inverse_rows: Tensor
    indices: Tensor | None
    generator: torch.Generator | None
    seeds: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.student_hidden.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.student_weight.shape[0]


@dataclass(frozen=True)
class HeadResult:
    """The loss (0-d, already divided), its two parts, the group that was used and the gradients, if asked for."""

    loss: Tensor
    pair: Tensor
    divergence: Tensor
    indices: Tensor | None
    hidden_gradient: Tensor | None = None
    weight_gradient: Tensor | None = None
    bias_gradient: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """How the work is cut: tokens per chunk, fast or lean, dtype of the sums, which gradients are wanted,
    dtype of the weight's gradient (the weight's own, where the products run in a narrower one)."""

    chunk: int
    lean: bool
    accumulate: str
    gradients: bool
    weight_dtype: torch.dtype
    weight_gradient: bool = False


def chunks(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover all rows."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
