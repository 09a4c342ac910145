"""The distillation head: hidden states and lm_head weights in, the loss and its gradients out, no full logits."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._head_call import Call, gathered, group_indices, row_weighting
from grkd.kernels._inputs import LOGITS_BYTES, HeadPlan
from grkd.kernels._options import (
    Accumulate,
    Divergence,
    GroupName,
    HeadOptions,
    Implementation,
    Memory,
    PairOptions,
)
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
    if seeds is not None and seeds.shape != row_shape:
        raise ValueError(f"seeds have shape {tuple(seeds.shape)}, the rows {tuple(row_shape)}; they must be equal")
    plan = HeadPlan(
        chunk=chunk or _default_chunk(hidden, cut),
        lean=memory == "lean",
        accumulate=accumulate,
        gradients=torch.is_grad_enabled(),
        weight_dtype=weight.dtype,
    )
    call = Call(
        options=options,
        plan=plan,
        masked=row_mask is not None or row_weights is not None,
        implementation=implementation,
        vocabulary=cut,
        seeds=None if seeds is None else seeds.reshape(-1),
        generator=generator,
    )
    bias, teacher_bias = (None if each is None else gathered(each) for each in (student_bias, teacher_bias))
    teacher = teacher_hidden.reshape(-1, teacher_hidden.shape[-1]), teacher_weight, teacher_bias
    loss, pair, soft = call((hidden, weight, bias), teacher, (weights, inverse_rows, None), indices)
    return (loss, {"group_relative": pair, "divergence": soft}) if parts else loss


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
