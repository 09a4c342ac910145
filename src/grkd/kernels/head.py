"""The distillation head: hidden states and lm_head weights in, the loss and its gradients out, no full logits.

Over 300 lines: one public function with many options, and the checks of each.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grkd.errors import UserError
from grkd.kernels import _head_torch
from grkd.kernels._available import use_triton
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._inputs import LOGITS_BYTES, HeadInputs, HeadPlan, HeadResult
from grkd.kernels._options import (
    PAIR_KERNELS,
    Accumulate,
    Divergence,
    GroupName,
    HeadOptions,
    Implementation,
    Memory,
    PairOptions,
    implementation_of,
)
from grkd.kernels._scaling import scale_by
from grkd.losses import HARD, Normalize, PairForm


@outside_graphs
def distillation_head(
    student_hidden: Float[Tensor, "*rows student_width"],
    student_weight: Tensor,
    teacher_hidden: Float[Tensor, "*rows teacher_width"],
    teacher_weight: Tensor,
    *,
    alpha: float,
    pair_scale: float = 1.0,
    soft_scale: float = 1.0,
    divergence: Divergence = "soft_target",
    beta: float = 0.5,
    temperature: float = 1.0,
    t_squared: bool = False,
    tau: float = 1.0,
    pair_target: PairForm | str = HARD,
    normalize: Normalize = "pairs",
    group: GroupName | Tensor = "auto",
    group_size: int = 16,
    group_temperature: float = 1.0,
    seeds: Tensor | None = None,
    generator: torch.Generator | None = None,
    row_mask: Tensor | None = None,
    row_weights: Tensor | None = None,
    rows: Tensor | float | int | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    vocabulary: int | None = None,
    chunk: int | None = None,
    memory: Memory = "fast",
    accumulate: Accumulate = "float32",
    implementation: Implementation = "auto",
    parts: bool = False,
) -> Any:
    """GRKD (or a divergence alone, alpha=0) from hidden states, in nats: a scalar, or with its parts.

    s = cap_S(h_S W_S^T + b_S), t = cap_T(h_T W_T^T + b_T), both cut to the first `vocabulary` entries
    L = (1 / rows) sum_r w_r [alpha * pair_scale * L_GR(s_r, t_r) + (1 - alpha) * soft_scale * D(s_r, t_r)]
    L_GR: grkd.losses.group_relative over the row's group: "all", the teacher's "top" group_size, a "sample" of
    group_size from softmax(t / group_temperature), "auto" (all up to 1,000 entries, else a sample), or integer indices
    [*rows, group], -1 if a row has fewer. seeds: int64 [*rows], one per row: its sample is a function of its seed; a
    generator serves if there are none. D: "soft_target", "forward_kl", "reverse_kl" or "jsd" at `temperature`,
    times T^2 if `t_squared`; beta belongs to the JSD. cap(x) = softcap * tanh(x / softcap), each model its own.

    weights: [vocabulary or more, width]; DTensors are gathered, their gradients averaged over ranks as FSDP2 does.
    row_mask: bool, True where the row counts; row_weights: w_r, one per row. rows: the divisor, a number or
    a 0-d tensor (a trainer passes the global count); None takes the number of rows that count. Here every term has the
    same divisor, as in objectives.combine(terms, rows=...).
    chunk: rows whose logits are held at once (None: about 1.3 GB of logits on CUDA). memory="lean": on CUDA, blocks of
    the vocabulary and both products twice; less memory, half again the time.
    accumulate: dtype of the weight gradient's sum over chunks.
    parts=True gives (loss, {"group_relative": ..., "divergence": ...}), the weighted parts without a graph.
    Gradients are taken in the forward pass: to student_hidden, student_weight and student_bias, never to the teacher.
    Raises UserError for options out of range, ValueError for shapes that do not fit.
    """
    options = HeadOptions(
        pairs=PairOptions.of(tau=tau, pair_target=pair_target, normalize=normalize),
        pair_weight=alpha * pair_scale,
        divergence=divergence,
        divergence_weight=(1 - alpha) * soft_scale,
        beta=beta,
        temperature=temperature,
        t_squared=t_squared,
        group="given" if isinstance(group, Tensor) else group,
        group_size=group.shape[-1] if isinstance(group, Tensor) else group_size,
        group_temperature=group_temperature,
        student_softcap=student_softcap,
        teacher_softcap=teacher_softcap,
    )
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha must be in [0, 1], got {alpha}")
    if memory not in ("fast", "lean"):
        raise UserError(f"unknown memory {memory!r}; known: fast, lean")
    if accumulate not in ("float32", "weight"):
        raise UserError(f"unknown accumulate {accumulate!r}; known: float32, weight")
    if student_hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise ValueError(
            f"student_hidden has rows {tuple(student_hidden.shape[:-1])}, "
            f"teacher_hidden {tuple(teacher_hidden.shape[:-1])}; they must be equal"
        )
    row_shape = student_hidden.shape[:-1]
    hidden = student_hidden.reshape(-1, student_hidden.shape[-1])
    weight, teacher_weight = gathered(student_weight), gathered(teacher_weight)
    cut = _cut(weight, teacher_weight, vocabulary)
    if options.pair_weight and options.named_group(cut) in ("top", "sample") and group_size > cut:
        raise UserError(f"group_size must be between 2 and the {cut} candidates, got {group_size}")
    weights, inverse_rows = row_weighting(row_mask, row_weights, rows, row_shape, hidden)
    indices = group_indices(group, row_shape, cut) if isinstance(group, Tensor) else None
    plan = HeadPlan(
        chunk=chunk or _default_chunk(hidden, cut),
        lean=memory == "lean",
        accumulate=accumulate,
        gradients=torch.is_grad_enabled(),
        weight_gradient=weight.requires_grad,
        weight_dtype=weight.dtype,
    )
    rest = (
        teacher_hidden.detach().reshape(-1, teacher_hidden.shape[-1]).to(hidden.dtype),
        teacher_weight.detach()[:cut].to(hidden.dtype),
        None if teacher_bias is None else gathered(teacher_bias).detach()[:cut],
        weights,
        inverse_rows,
        indices,
    )
    bias = None if student_bias is None else gathered(student_bias)
    if seeds is not None and seeds.shape != row_shape:
        raise ValueError(f"seeds have shape {tuple(seeds.shape)}, the rows {tuple(row_shape)}; they must be equal")
    draws = (None if seeds is None else seeds.reshape(-1), generator)
    call = _Call(options, plan, draws, row_mask is not None or row_weights is not None, implementation, cut)
    loss, pair, soft = _Head.apply(hidden, weight, bias, call, *rest)
    return (loss, {"group_relative": pair, "divergence": soft}) if parts else loss


class _Call:
    """What is not a tensor in one call."""

    def __init__(
        self,
        options: HeadOptions,
        plan: HeadPlan,
        draws: tuple[Tensor | None, torch.Generator | None],
        masked: bool,
        implementation: Implementation,
        vocabulary: int,
    ) -> None:
        self.options, self.plan, (self.seeds, self.generator) = options, plan, draws
        self.masked, self.implementation, self.vocabulary = masked, implementation, vocabulary

    def run(self, tensors: tuple[Tensor | None, ...], indices: Tensor | None, gradients: bool) -> HeadResult:
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, weights, inverse_rows = tensors
        assert hidden is not None
        assert weight is not None
        assert weights is not None
        if self.masked:
            # What stands in rows that do not count (NaN, inf) must not reach the weight's gradient as 0 * NaN.
            hidden = torch.where((weights != 0).unsqueeze(-1), hidden, 0.0)
        inputs = HeadInputs(
            student_hidden=hidden.contiguous(),
            student_weight=weight[: self.vocabulary].to(hidden.dtype),
            teacher_hidden=teacher_hidden,  # type: ignore[arg-type]
            teacher_weight=teacher_weight,  # type: ignore[arg-type]
            student_bias=None if bias is None else bias[: self.vocabulary].to(hidden.dtype),
            teacher_bias=None if teacher_bias is None else teacher_bias.to(hidden.dtype),
            weights=weights,
            inverse_rows=inverse_rows,  # type: ignore[arg-type]
            indices=indices,
            generator=self.generator,
            seeds=self.seeds,
        )
        plan = HeadPlan(**{**self.plan.__dict__, "gradients": gradients})
        wanted = self.implementation
        if self.options.pair_weight:
            wanted = implementation_of(self.options.pairs.form, PAIR_KERNELS, wanted)
        if inputs.rows and use_triton(hidden, wanted) and self._fits_kernel(inputs):
            from grkd.kernels import _head_triton

            return _head_triton.run(inputs, self.options, plan)
        return _head_torch.run(inputs, self.options, plan)

    def _fits_kernel(self, inputs: HeadInputs) -> bool:
        # The row kernel holds a group of up to 64; all pairs of a vocabulary are the all-pairs loss's business.
        group = self.options.named_group(inputs.vocabulary)
        return not self.options.pair_weight or (group != "all" and self.options.group_size <= 64)


class _Head(torch.autograd.Function):
    """Gradients computed with the loss and handed out by backward; a second backward computes them again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call, *rest: Tensor | None
    ) -> Any:
        *tensors, indices = rest
        wanted = call.plan.gradients and any(ctx.needs_input_grad[:3])
        result = call.run((hidden, weight, bias, *tensors), indices, wanted)
        ctx.call, ctx.indices = call, result.indices
        ctx.save_for_backward(hidden, weight, bias, *tensors)
        ctx.gradients = (result.hidden_gradient, result.weight_gradient, result.bias_gradient) if wanted else None
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
            result = ctx.call.run(saved, ctx.indices, True)
            gradients = (result.hidden_gradient, result.weight_gradient, result.bias_gradient)
            del result
        hidden, weight, bias = saved[:3]
        found: list[Tensor | None] = []
        for wanted, gradient, tensor in zip(ctx.needs_input_grad, gradients, (hidden, weight, bias), strict=False):
            if not wanted or gradient is None or tensor is None:
                found.append(None)
                continue
            scale_by(gradient, upstream)
            if gradient.shape != tensor.shape:
                whole = torch.zeros_like(tensor)
                whole[: gradient.shape[0]] = gradient
                gradient = whole
            found.append(gradient.to(tensor.dtype))
        del gradients
        return (*found, *([None] * (len(ctx.needs_input_grad) - 3)))


def gathered(tensor: Tensor) -> Tensor:
    """A DTensor's whole value (FSDP2 shards weights); its gradient is averaged over ranks, as FSDP2's own is."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)  # type: ignore[attr-defined]


def _cut(student_weight: Tensor, teacher_weight: Tensor, vocabulary: int | None) -> int:
    sizes = student_weight.shape[0], teacher_weight.shape[0]
    if vocabulary is None and sizes[0] != sizes[1]:
        raise UserError(
            f"the student's lm_head has {sizes[0]} entries, the teacher's {sizes[1]}: set vocabulary to the number of "
            "tokens that both share"
        )
    cut = sizes[0] if vocabulary is None else vocabulary
    if not 2 <= cut <= min(sizes):
        raise UserError(f"vocabulary must be between 2 and {min(sizes)} (the smaller lm_head), got {cut}")
    return cut


def _default_chunk(hidden: Tensor, vocabulary: int) -> int:
    if not hidden.is_cuda:
        # Logits of about 64 MB are cheap to allocate.
        return max(1, min(1024, (1 << 24) // vocabulary))
    # As many rows as fit beside a quarter of the teacher's: the products come nearer to the GPU's peak.
    fitting = LOGITS_BYTES * 4 // (5 * vocabulary * hidden.element_size())
    return max(512, min(8192, fitting // 1024 * 1024))


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
