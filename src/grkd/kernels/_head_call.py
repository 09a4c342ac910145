"""One call of a head as autograd sees it, and what both heads' arguments are made into."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grkd.kernels import _head_torch
from grkd.kernels._available import use_triton
from grkd.kernels._inputs import HeadInputs, HeadPlan, HeadResult
from grkd.kernels._options import PAIR_KERNELS, HeadOptions, Implementation, implementation_of
from grkd.kernels._scaling import scale_by


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is no tensor of one call. masked: some rows do not count. vocabulary: entries that both models have."""

    options: HeadOptions
    plan: HeadPlan
    masked: bool
    implementation: Implementation
    vocabulary: int
    seeds: Tensor | None = None
    generator: torch.Generator | None = None

    def __call__(
        self,
        student: tuple[Tensor, Tensor, Tensor | None],
        teacher: tuple[Tensor, Tensor, Tensor | None],
        rows: tuple[Tensor, Tensor, Tensor | None],
        indices: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, with gradients to hidden states, weight and bias of the student, and its two parts.

        student, teacher: hidden states [rows, width], weight and bias. rows: weights, 1 / divisor, and the teacher's
        scores of the groups where they are known; of the teacher nothing is read then. indices: of given groups.
        """
        dtype, hidden = student[0].dtype, teacher[0].detach()
        cut = [None if each is None else each.detach()[: self.vocabulary].to(dtype) for each in teacher[1:]]
        found: tuple[Tensor, Tensor, Tensor] = _Head.apply(*student, self, indices, hidden.to(dtype), *cut, *rows)
        return found

    def run(self, tensors: Sequence[Any], indices: Tensor | None, wanted: Sequence[bool]) -> HeadResult:
        """wanted: whether gradients of the student's hidden states, weight and bias are."""
        hidden, weight, bias, *teacher, weights, inverse_rows, known = tensors
        if self.masked:
            # What stands in rows that do not count (NaN, inf) must not reach the weight's gradient as 0 * NaN.
            hidden = torch.where((weights != 0).unsqueeze(-1), hidden, 0.0)
        inputs = HeadInputs(
            student_hidden=hidden.contiguous(),
            student_weight=weight[: self.vocabulary].to(hidden.dtype),
            teacher_hidden=teacher[0],
            teacher_weight=teacher[1],
            student_bias=None if bias is None else bias[: self.vocabulary].to(hidden.dtype),
            teacher_bias=teacher[2],
            weights=weights,
            inverse_rows=inverse_rows,
            indices=indices,
            generator=self.generator,
            seeds=self.seeds,
        )
        plan = replace(self.plan, gradients=any(wanted), weight_gradient=wanted[1] or wanted[2])
        implementation = self.implementation
        if self.options.pair_weight:
            implementation = implementation_of(self.options.pairs.form, PAIR_KERNELS, implementation)
        if inputs.rows and use_triton(hidden, implementation) and self._fits_kernel(inputs):
            from grkd.kernels import _head_triton

            return _head_triton.run(inputs, self.options, plan, known)
        if indices is not None and not self.options.divergence_weight:
            return _head_torch.pairs_alone(inputs, self.options, plan, known)
        return _head_torch.run(inputs, self.options, plan)

    def _fits_kernel(self, inputs: HeadInputs) -> bool:
        # The row kernel holds a group of up to 64; all pairs of a vocabulary are the all-pairs loss's business.
        group = self.options.named_group(inputs.vocabulary)
        return not self.options.pair_weight or (group != "all" and self.options.group_size <= 64)


class _Head(torch.autograd.Function):
    """Gradients computed with the loss and handed out by backward; a second backward computes them again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: Call,
        indices: Tensor | None,
        *rest: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.wanted = [call.plan.gradients and needed for needed in ctx.needs_input_grad[:3]]
        result = call.run((hidden, weight, bias, *rest), indices, ctx.wanted)
        ctx.call, ctx.indices = call, result.indices
        ctx.save_for_backward(hidden, weight, bias, *rest)
        ctx.gradients = _gradients(result) if any(ctx.wanted) else None
        ctx.mark_non_differentiable(result.pair, result.divergence)
        return result.loss, result.pair, result.divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *unused: Tensor) -> Any:
        # Read in any case: freed buffers raise PyTorch's own error, and checkpointing recomputes the forward here.
        saved = ctx.saved_tensors
        # Handed out once and let go, so that autograd can keep them as .grad without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = _gradients(ctx.call.run(saved, ctx.indices, ctx.wanted))
        found: list[Tensor | None] = []
        for wanted, tensor in zip(ctx.wanted, saved, strict=False):
            gradient = gradients.pop(0)
            if not wanted or gradient is None:
                found.append(None)
                continue
            scale_by(gradient, upstream)
            if gradient.shape != tensor.shape:
                whole = torch.zeros_like(tensor)
                whole[: gradient.shape[0]] = gradient
                gradient = whole
            found.append(gradient.to(tensor.dtype))
        return (*found, *([None] * (len(ctx.needs_input_grad) - 3)))


def _gradients(result: HeadResult) -> list[Tensor | None]:
    return [result.hidden_gradient, result.weight_gradient, result.bias_gradient]


def gathered(tensor: Tensor) -> Tensor:
    """A DTensor's whole value (FSDP2 shards weights); its gradient is averaged over ranks, as FSDP2's own is."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)  # type: ignore[attr-defined]


def row_weighting(
    row_mask: Tensor | None,
    row_weights: Tensor | None,
    rows: Tensor | float | int | None,
    shape: torch.Size,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weights [rows] (0 if masked) and 1 / divisor (0-d), in at least float32, with no host synchronisation.

    Raises ValueError for a mask or weights of another shape than the rows'.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    for name, tensor in (("row_mask", row_mask), ("row_weights", row_weights)):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the rows {tuple(shape)}; they must be equal")
    if row_mask is not None and row_mask.is_floating_point():
        raise ValueError(f"row_mask must be bool (True = the row counts), got {row_mask.dtype}")
    weights = torch.ones(shape, dtype=dtype, device=hidden.device)
    if row_weights is not None:
        weights = row_weights.detach().to(weights)
    if row_mask is not None:
        weights = torch.where(row_mask.bool(), weights, 0.0)
    if isinstance(rows, Tensor):
        divisor = rows.detach().to(weights)
    elif rows is not None:
        divisor = torch.full((), float(rows), dtype=dtype, device=hidden.device)
    elif row_mask is not None:
        divisor = row_mask.sum(dtype=dtype).clamp_min(1)
    else:
        divisor = torch.full((), float(max(1, shape.numel())), dtype=dtype, device=hidden.device)
    return weights.reshape(-1).contiguous(), 1 / divisor.reshape(())


def group_indices(group: Tensor, row_shape: torch.Size, vocabulary: int) -> Tensor:
    """The given group as [rows, group] int64.

    Raises ValueError for another shape or floating-point indices. That they lie below the vocabulary is checked on the
    CPU only: on CUDA the check would stop the step to read the answer.
    """
    if group.shape[:-1] != row_shape or group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(
            f"group must be integers of shape {(*row_shape, 'group')}, got {group.dtype} {tuple(group.shape)}"
        )
    if not group.is_cuda and group.numel() and int(group.max()) >= vocabulary:
        raise ValueError(f"group holds index {int(group.max())}, the vocabulary has {vocabulary} entries")
    return group.detach().reshape(-1, group.shape[-1]).long()
