"""The distillation head on the GPU: matrix products by cuBLAS, everything between them by the row kernel."""

import math

import torch
import triton
from torch import Tensor

from grkd.kernels import _pairs_triton
from grkd.kernels._available import interpreted
from grkd.kernels._inputs import HeadInputs, HeadPlan, HeadResult, chunks
from grkd.kernels._options import HeadOptions
from grkd.kernels._products import add_product, sum_dtype
from grkd.kernels._row_triton import block_kernel, row_kernel

# Lanes of the row kernel (8 entries each) and its warps, by vocabulary: measured on an H100.
_LANES, _WARPS = 512, 16
_STAGES, _HINTS = 1, ("", "")
# Both logits of a chunk in the fast form: the teacher's are cut where they would take more.
_LOGITS_BYTES = 1_300 << 20
# Entries of a [rows, block] pair of logits in the lean form: 400 MB in 16 bits.
_LEAN_ENTRIES = 100_000_000


def run(inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """Loss and gradients; the host never waits for the device."""
    state = _State(inputs, options)
    if plan.gradients and not options.divergence_weight:
        return _pairs_alone(state, inputs, options, plan)
    if plan.lean or not plan.gradients:
        return _lean(state, inputs, options, plan)
    return _fast(state, inputs, options, plan)


class _State:
    """What the row kernel writes for every row of the call, and how it is launched."""

    def __init__(self, inputs: HeadInputs, options: HeadOptions) -> None:
        rows, device = inputs.rows, inputs.student_hidden.device
        self.inputs, self.options = inputs, options
        self.pairs = bool(options.pair_weight)
        self.choice = "given" if inputs.indices is not None else options.named_group(inputs.vocabulary)
        size = options.group_size if self.pairs else 1
        self.losses = torch.empty(rows, 2, dtype=torch.float32, device=device)
        self.statistics = torch.empty(rows, 3, dtype=torch.float32, device=device)
        self.pair_gradient = torch.empty(rows, size, dtype=torch.float32, device=device)
        if inputs.indices is None:
            self.indices = torch.empty(rows, size, dtype=torch.int64, device=device)
        else:
            self.indices = inputs.indices.contiguous()
        # Two numbers a draw, made here by the caller's generator: the kernel holds no random state of its own.
        self.uniforms = self.losses
        if self.pairs and self.choice == "sample":
            self.uniforms = torch.rand(rows, size, 2, generator=inputs.generator, device=device)
        # 1 / rows inside a float16 gradient would underflow: there it is applied at the end.
        self.scaled = inputs.student_hidden.dtype != torch.float16
        vocabulary = inputs.vocabulary
        self.lanes = min(_LANES, max(16, triton.next_power_of_2(triton.cdiv(vocabulary, 8))))

    def logits(self, rows: int) -> Tensor:
        """A buffer [rows, vocabulary] whose rows start at aligned addresses."""
        vocabulary = self.inputs.vocabulary
        padded = -(-vocabulary // 64) * 64
        whole = torch.empty(rows, padded, dtype=self.inputs.student_hidden.dtype, device=self.losses.device)
        return whole[:, :vocabulary]

    def common(self) -> dict[str, object]:
        options, inputs = self.options, self.inputs
        exact = interpreted() or inputs.student_hidden.element_size() == 4
        return {
            "log_beta": math.log2(options.beta),
            "log_rest": math.log2(1 - options.beta),
            "rest": 1 - options.beta,
            "KIND": options.divergence,
            "PAIRS": self.pairs,
            "GROUP": self.pair_gradient.shape[1],
            "GROUP_PAD": max(4, triton.next_power_of_2(self.pair_gradient.shape[1])),
            "SCALED": self.scaled,
            "HAS_STUDENT_BIAS": inputs.student_bias is not None,
            "HAS_TEACHER_BIAS": inputs.teacher_bias is not None,
            "STUDENT_CAP": options.student_softcap is not None,
            "TEACHER_CAP": options.teacher_softcap is not None,
            "FAST": not exact,
        }

    def rows(self, part: slice, student: Tensor, teacher: Tensor, *, gradient: bool) -> None:
        """Run the row kernel on rows `part`; student becomes its own gradient where that is asked for."""
        inputs, options = self.inputs, self.options
        fallback = inputs.weights
        count = part.stop - part.start
        divergence = bool(options.divergence_weight)
        steps = triton.cdiv(inputs.vocabulary, self.lanes * 8)
        common = self.common()
        row_kernel[(count,)](
            student, teacher, student.stride(0),
            fallback if inputs.student_bias is None else inputs.student_bias,
            fallback if inputs.teacher_bias is None else inputs.teacher_bias,
            options.student_softcap or 1.0, options.teacher_softcap or 1.0,
            inputs.student_hidden[part], inputs.student_weight, inputs.student_weight.stride(0),
            inputs.student_hidden.shape[1],
            inputs.teacher_hidden[part], inputs.teacher_weight, inputs.teacher_weight.stride(0),
            inputs.teacher_hidden.shape[1],
            inputs.weights[part], inputs.inverse_rows, self.uniforms[part], self.indices[part],
            self.pair_gradient[part], self.statistics[part], self.losses[part],
            inputs.vocabulary, options.temperature, options.group_temperature, options.pairs.tau,
            options.pair_weight, options.divergence_scale,
            CHOICE=self.choice if self.pairs else "given",
            DIVERGENCE=divergence,
            SAME_T=options.temperature == options.group_temperature,
            SOFT=options.pairs.pair_target == "soft",
            PER_PAIR=options.pairs.normalize == "pairs",
            RESCORE=inputs.student_hidden.element_size() < 4 or not divergence,
            GRADIENT=gradient,
            LANES=self.lanes,
            STEPS_PAD=triton.next_power_of_2(steps),
            WIDTH=128,
            STAGES=_STAGES,
            HINT1=_HINTS[0],
            HINT2=_HINTS[1],
            num_warps=max(1, min(_WARPS, self.lanes // 32)),
            **common,
        )  # fmt: skip

    def result(self, **gradients: Tensor | None) -> HeadResult:
        sums = self.losses.sum(0) * self.inputs.inverse_rows
        return HeadResult(
            loss=sums.sum(),
            pair=sums[0],
            divergence=sums[1],
            indices=self.indices if self.pairs else None,
            **gradients,
        )


def _fast(state: _State, inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """Chunks of rows: both logits, the row kernel, then both products of the gradient.

    The student's logits of a chunk become its gradient and must be whole; the teacher's are needed by the row kernel
    only and are made in parts where both would take too much memory.
    """
    hidden, weight = inputs.student_hidden, inputs.student_weight
    size = min(plan.chunk, inputs.rows)
    some = _teacher_rows(size, inputs)
    student, teacher = state.logits(size), state.logits(some)
    hidden_gradient = torch.empty_like(hidden)
    weight_sum = bias_sum = None
    if plan.weight_gradient:
        dtype = sum_dtype(plan.weight_dtype, accumulate=plan.accumulate)
        weight_sum = torch.empty_like(weight, dtype=dtype, memory_format=torch.contiguous_format)
        if inputs.student_bias is not None:
            bias_sum = torch.zeros(inputs.vocabulary, dtype=torch.float32, device=hidden.device)
    for number, chunk in enumerate(chunks(inputs.rows, size)):
        gradient = student[: chunk.stop - chunk.start]
        torch.mm(hidden[chunk], weight.mT, out=gradient)
        for inner in chunks(chunk.stop - chunk.start, some):
            rows = slice(chunk.start + inner.start, chunk.start + inner.stop)
            part = teacher[: inner.stop - inner.start]
            torch.mm(inputs.teacher_hidden[rows], inputs.teacher_weight.mT, out=part)
            state.rows(rows, gradient[inner], part, gradient=True)
        torch.mm(gradient, weight, out=hidden_gradient[chunk])
        if weight_sum is not None:
            add_product(weight_sum, gradient.mT, hidden[chunk], first=number == 0)
        if bias_sum is not None:
            bias_sum += gradient.sum(0, dtype=torch.float32)
    # Given back before the sum is cast, so that the two are never held together.
    del student, teacher, gradient, part
    return _finished(state, plan, hidden_gradient, weight_sum, bias_sum)


def _teacher_rows(size: int, inputs: HeadInputs) -> int:
    """Rows of the teacher's logits held at once: as many as the budget allows, a quarter of a chunk at least."""
    row_bytes = inputs.vocabulary * inputs.student_hidden.element_size()
    left = _LOGITS_BYTES - size * row_bytes
    for parts in (1, 2):
        if size // parts * row_bytes <= left:
            return max(1, -(-size // parts))
    return max(1, -(-size // 4))


def _lean(state: _State, inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """Pass 1: rows' statistics and groups. Pass 2: blocks of the vocabulary, whose weight gradient is then complete.

    The products of pass 1 are made again in pass 2; no sum over chunks of the whole weight gradient is ever held.
    Without gradients pass 1 is all.
    """
    hidden, weight = inputs.student_hidden, inputs.student_weight
    quarter = max(1, -(-min(plan.chunk, inputs.rows) // 4))
    student, teacher = state.logits(quarter), state.logits(quarter)
    for part in chunks(inputs.rows, quarter):
        count = part.stop - part.start
        if options.divergence_weight:
            torch.mm(hidden[part], weight.mT, out=student[:count])
        torch.mm(inputs.teacher_hidden[part], inputs.teacher_weight.mT, out=teacher[:count])
        state.rows(part, student[:count], teacher[:count], gradient=False)
    del student, teacher
    if not plan.gradients:
        return state.result()
    width = max(256, min(inputs.vocabulary, _LEAN_ENTRIES // max(1, inputs.rows)) // 256 * 256)
    hidden_sum = torch.zeros_like(hidden, dtype=torch.float32)
    weight_gradient = bias_sum = None
    if plan.weight_gradient:
        weight_gradient = torch.empty_like(weight, dtype=plan.weight_dtype, memory_format=torch.contiguous_format)
        if inputs.student_bias is not None:
            bias_sum = torch.zeros(inputs.vocabulary, dtype=torch.float32, device=hidden.device)
    whole = hidden.new_empty(2, inputs.rows, width)
    for block in chunks(inputs.vocabulary, width):
        gradient, teacher = whole[0, :, : block.stop - block.start], whole[1, :, : block.stop - block.start]
        torch.mm(hidden, weight[block].mT, out=gradient)
        torch.mm(inputs.teacher_hidden, inputs.teacher_weight[block].mT, out=teacher)
        _block(state, block, gradient, teacher)
        add_product(hidden_sum, gradient, weight[block], first=block.start == 0)
        if weight_gradient is not None:
            add_product(weight_gradient[block], gradient.mT, hidden, first=True)
        if bias_sum is not None:
            bias_sum[block] = gradient.sum(0, dtype=torch.float32)
    return _finished(state, plan, hidden_sum, weight_gradient, bias_sum)


def _block(state: _State, block: slice, student: Tensor, teacher: Tensor) -> None:
    inputs, options = state.inputs, state.options
    entries = 1024
    fallback = inputs.weights
    block_kernel[(inputs.rows, triton.cdiv(block.stop - block.start, entries))](
        student, teacher, student.stride(0),
        fallback if inputs.student_bias is None else inputs.student_bias[block],
        fallback if inputs.teacher_bias is None else inputs.teacher_bias[block],
        options.student_softcap or 1.0, options.teacher_softcap or 1.0,
        inputs.weights, inputs.inverse_rows, state.statistics, state.indices, state.pair_gradient,
        block.start, block.stop - block.start, options.temperature, options.divergence_scale,
        BLOCK=entries,
        num_warps=4,
        **state.common(),
    )  # fmt: skip


def _pairs_alone(state: _State, inputs: HeadInputs, options: HeadOptions, plan: HeadPlan) -> HeadResult:
    """alpha = 1: the teacher's logits choose the group, the student's are never made."""
    if state.choice != "given":
        quarter = max(1, -(-min(plan.chunk, inputs.rows) // 4))
        teacher = state.logits(quarter)
        for part in chunks(inputs.rows, quarter):
            some = teacher[: part.stop - part.start]
            torch.mm(inputs.teacher_hidden[part], inputs.teacher_weight.mT, out=some)
            state.rows(part, some, some, gradient=False)
        del teacher, some
    else:
        _pairs_triton.scores_and_slopes(inputs, options, None, state.losses, state.pair_gradient, scaled=state.scaled)
    hidden_gradient = _pairs_triton.hidden_gradient(inputs, state.indices, state.pair_gradient)
    weight_gradient = bias_sum = None
    if plan.weight_gradient:
        weight_gradient = _pairs_triton.weight_gradient(inputs, state.indices, state.pair_gradient, plan.weight_dtype)
        if inputs.student_bias is not None:
            bias_sum = _pairs_triton.bias_gradient(inputs, state.indices, state.pair_gradient)
    return _finished(state, plan, hidden_gradient, weight_gradient, bias_sum)


def _finished(
    state: _State, plan: HeadPlan, hidden_gradient: Tensor, weight_sum: Tensor | None, bias_sum: Tensor | None
) -> HeadResult:
    inputs = state.inputs
    if not state.scaled:
        for gradient in (hidden_gradient, weight_sum, bias_sum):
            if gradient is not None:
                gradient.mul_(inputs.inverse_rows)
    return state.result(
        hidden_gradient=hidden_gradient.to(inputs.student_hidden.dtype),
        weight_gradient=None if weight_sum is None else weight_sum.to(plan.weight_dtype),
        bias_gradient=bias_sum,
    )
