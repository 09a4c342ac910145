"""The distillation head on the GPU: matrix products by cuBLAS, everything between them by the row kernel.

Over 300 lines: the steps of one head, in the order in which they run, with the buffers that they share.
"""

import math

import torch
import triton
from torch import Tensor

from grkd.groups import uniforms_of_groups
from grkd.kernels import _pairs_triton
from grkd.kernels._available import interpreted
from grkd.kernels._group_triton import choose_kernel, group_kernel
from grkd.kernels._inputs import LOGITS_BYTES, HeadInputs, HeadPlan, HeadResult, chunks
from grkd.kernels._options import HeadOptions
from grkd.kernels._products import add_product, sum_dtype
from grkd.kernels._row_triton import block_kernel, row_kernel

# Lanes of the row kernel (8 entries each), its warps and loads in flight: measured on an H100.
_LANES, _WARPS, _STAGES = 512, 16, 3
# Columns of the weights that the group's kernel reads at a time, its warps and loads in flight.
_GROUP_WIDTH, _GROUP_WARPS, _GROUP_STAGES = 256, 4, 3
# Entries of a [rows, block] pair of logits in the lean form: 400 MB in 16 bits.
_LEAN_ENTRIES = 100_000_000


def run(inputs: HeadInputs, options: HeadOptions, plan: HeadPlan, teacher_scores: Tensor | None = None) -> HeadResult:
    """Loss and gradients; the host never waits for the device."""
    state = _State(inputs, options, teacher_scores)
    if not options.divergence_weight:
        return _pairs_alone(state, inputs, plan)
    if plan.lean or not plan.gradients:
        return _lean(state, inputs, plan)
    return _fast(state, inputs, plan)


class _State:
    """What the kernels write for every row of the call, and how they are launched."""

    def __init__(self, inputs: HeadInputs, options: HeadOptions, teacher_scores: Tensor | None = None) -> None:
        rows, device = inputs.rows, inputs.student_hidden.device
        self.inputs, self.options, self.teacher_scores = inputs, options, teacher_scores
        self.pairs, self.divergence = bool(options.pair_weight), bool(options.divergence_weight)
        self.choice = "given" if inputs.indices is not None else options.named_group(inputs.vocabulary)
        self.chosen_here = self.pairs and self.choice != "given"
        size = options.group_size if self.pairs else 1
        # Parts that no kernel writes stay 0.
        self.losses = torch.zeros(rows, 2, dtype=torch.float32, device=device)
        self.statistics = torch.zeros(rows, 3, dtype=torch.float32, device=device)
        self.slopes = torch.empty(rows, size, dtype=torch.float32, device=device)
        if inputs.indices is None:
            self.indices = torch.empty(rows, size, dtype=torch.int64, device=device)
        else:
            self.indices = inputs.indices.contiguous()
        # Two numbers per draw, made here from the rows' seeds: the kernel holds no random state of its own.
        self.uniforms = self.losses
        if self.chosen_here and self.choice == "sample" and inputs.seeds is not None:
            self.uniforms = uniforms_of_groups(inputs.seeds, size)
        elif self.chosen_here and self.choice == "sample":
            self.uniforms = torch.rand(rows, size, 2, generator=inputs.generator, device=device)
        # 1 / rows inside a float16 gradient would underflow: there it is applied at the end.
        self.scaled = inputs.student_hidden.dtype != torch.float16
        self.lanes = min(_LANES, max(16, triton.next_power_of_2(triton.cdiv(inputs.vocabulary, 8))))
        self.group_pad = max(4, triton.next_power_of_2(size))
        self.lane_sums = torch.empty(0, 2, self.lanes, dtype=torch.float32, device=device)

    def logits(self, rows: int) -> Tensor:
        """A buffer [rows, vocabulary] whose rows start at aligned addresses."""
        vocabulary = self.inputs.vocabulary
        padded = -(-vocabulary // 64) * 64
        whole = torch.empty(rows, padded, dtype=self.inputs.student_hidden.dtype, device=self.losses.device)
        return whole[:, :vocabulary]

    def common(self) -> dict[str, object]:
        """Arguments that all three kernels take."""
        options, inputs = self.options, self.inputs
        return {
            "student_bias": inputs.weights if inputs.student_bias is None else inputs.student_bias,
            "teacher_bias": inputs.weights if inputs.teacher_bias is None else inputs.teacher_bias,
            "student_cap": options.student_softcap or 1.0,
            "teacher_cap": options.teacher_softcap or 1.0,
            "inverse_rows": inputs.inverse_rows,
            "temperature": options.temperature,
            "divergence_weight": options.divergence_scale,
            "log_beta": math.log2(options.beta),
            "log_rest": math.log2(1 - options.beta),
            "rest": 1 - options.beta,
            "KIND": options.divergence,
            "SCALED": self.scaled,
            "HAS_STUDENT_BIAS": inputs.student_bias is not None,
            "HAS_TEACHER_BIAS": inputs.teacher_bias is not None,
            "STUDENT_CAP": options.student_softcap is not None,
            "TEACHER_CAP": options.teacher_softcap is not None,
            "FAST": not interpreted() and inputs.student_hidden.element_size() < 4,
        }

    def rows(self, part: slice, student: Tensor, teacher: Tensor, *, gradient: bool) -> None:
        """Row kernel, and choice of the groups, on rows `part`; with `gradient` student becomes the divergence's."""
        if not self.divergence and not self.chosen_here:
            return
        count = part.stop - part.start
        if self.chosen_here and len(self.lane_sums) < count:
            self.lane_sums = torch.empty(count, 2, self.lanes, dtype=torch.float32, device=teacher.device)
        row_kernel[(count,)](
            student=student,
            teacher=teacher,
            row_stride=teacher.stride(0),
            weights=self.inputs.weights[part],
            lanes=self.lane_sums,
            statistics=self.statistics[part],
            losses=self.losses[part],
            vocabulary=self.inputs.vocabulary,
            group_temperature=self.options.group_temperature,
            DIVERGENCE=self.divergence,
            LANES_KEPT=self.chosen_here,
            SAME_T=self.options.temperature == self.options.group_temperature,
            GRADIENT=gradient,
            LANES=self.lanes,
            STAGES=1 if interpreted() else _STAGES,
            num_warps=max(1, min(_WARPS, self.lanes // 32)),
            **self.common(),
        )
        if self.chosen_here:
            self._choose(part, teacher)

    def _choose(self, part: slice, teacher: Tensor) -> None:
        inputs, common = self.inputs, self.common()
        steps = triton.cdiv(inputs.vocabulary, self.lanes * 8)
        choose_kernel[(part.stop - part.start,)](
            teacher=teacher,
            row_stride=teacher.stride(0),
            teacher_bias=common["teacher_bias"],
            teacher_cap=common["teacher_cap"],
            weights=inputs.weights[part],
            uniforms=self.uniforms[part],
            lanes=self.lane_sums,
            indices=self.indices[part],
            vocabulary=inputs.vocabulary,
            temperature=self.options.group_temperature,
            GROUP=self.slopes.shape[1],
            GROUP_PAD=self.group_pad,
            SAMPLE=self.choice == "sample",
            LANES=self.lanes,
            STEPS_PAD=triton.next_power_of_2(steps),
            HAS_BIAS=common["HAS_TEACHER_BIAS"],
            CAP=common["TEACHER_CAP"],
            FAST=common["FAST"],
            # The draws follow one another: within one warp they need no barrier.
            num_warps=1,
        )

    def group(self, part: slice, student: Tensor, *, gradient: bool, hidden_gradient: Tensor | None = None) -> None:
        """Pair term of rows `part`; with `gradient` their group's entries of student are written anew.

        hidden_gradient: gets that of the pair term alone.
        """
        if not self.pairs:
            return
        inputs, options = self.inputs, self.options
        group_kernel[(part.stop - part.start,)](
            gradient=student,
            row_stride=student.stride(0),
            student_hidden=inputs.student_hidden[part],
            student_weight=inputs.student_weight,
            student_weight_stride=inputs.student_weight.stride(0),
            student_width=inputs.student_hidden.shape[1],
            teacher_hidden=inputs.teacher_hidden[part],
            teacher_weight=inputs.teacher_weight,
            teacher_weight_stride=inputs.teacher_weight.stride(0),
            teacher_width=inputs.teacher_hidden.shape[1],
            teacher_scores=inputs.weights if self.teacher_scores is None else self.teacher_scores[part],
            weights=inputs.weights[part],
            indices=self.indices[part],
            slopes=self.slopes[part],
            hidden_gradient=student if hidden_gradient is None else hidden_gradient[part],
            statistics=self.statistics[part],
            losses=self.losses[part],
            tau=options.pairs.tau,
            pair_weight=options.pair_weight,
            DIVERGENCE=self.divergence,
            TEACHER_KNOWN=self.teacher_scores is not None,
            SOFT=options.pairs.soft,
            PER_PAIR=options.pairs.normalize == "pairs",
            GRADIENT=gradient,
            HIDDEN=hidden_gradient is not None,
            GROUP=self.slopes.shape[1],
            GROUP_PAD=self.group_pad,
            WIDTH=_GROUP_WIDTH,
            STAGES=1 if interpreted() else _GROUP_STAGES,
            num_warps=_GROUP_WARPS,
            **self.common(),
        )

    def sums(self, plan: HeadPlan, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Where the gradients of weight and bias are summed, if they are wanted."""
        if not plan.weight_gradient:
            return None, None
        weight, bias = self.inputs.student_weight, self.inputs.student_bias
        of_weight = torch.empty_like(weight, dtype=dtype, memory_format=torch.contiguous_format)
        of_bias = None if bias is None else torch.zeros(len(weight), dtype=torch.float32, device=weight.device)
        return of_weight, of_bias

    def result(self, **gradients: Tensor | None) -> HeadResult:
        sums = self.losses.sum(0) * self.inputs.inverse_rows
        return HeadResult(
            loss=sums.sum(),
            pair=sums[0],
            divergence=sums[1],
            indices=self.indices if self.pairs else None,
            **gradients,
        )


def _fast(state: _State, inputs: HeadInputs, plan: HeadPlan) -> HeadResult:
    """Chunks of rows: both logits, the row kernel, then both products of the gradient.

    The student's logits of a chunk become its gradient and must be whole; the teacher's are needed by the row kernel
    only and are made in parts where both would take too much memory.
    """
    hidden, weight = inputs.student_hidden, inputs.student_weight
    size = min(plan.chunk, inputs.rows)
    some = _teacher_rows(size, inputs)
    student, teacher = state.logits(size), state.logits(some)
    hidden_gradient = torch.empty_like(hidden)
    weight_sum, bias_sum = state.sums(plan, sum_dtype(plan.weight_dtype, accumulate=plan.accumulate))
    for number, chunk in enumerate(chunks(inputs.rows, size)):
        gradient = student[: chunk.stop - chunk.start]
        torch.mm(hidden[chunk], weight.mT, out=gradient)
        for inner in chunks(chunk.stop - chunk.start, some):
            rows = slice(chunk.start + inner.start, chunk.start + inner.stop)
            part = teacher[: inner.stop - inner.start]
            torch.mm(inputs.teacher_hidden[rows], inputs.teacher_weight.mT, out=part)
            state.rows(rows, gradient[inner], part, gradient=True)
        state.group(chunk, gradient, gradient=True)
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
    left = LOGITS_BYTES - size * row_bytes
    for parts in (1, 2):
        if size // parts * row_bytes <= left:
            return max(1, -(-size // parts))
    return max(1, -(-size // 4))


def _lean(state: _State, inputs: HeadInputs, plan: HeadPlan) -> HeadResult:
    """Pass 1: rows' statistics and groups. Pass 2: blocks of the vocabulary, whose weight gradient is then complete.

    The products of pass 1 are computed again in pass 2; no sum over chunks of the whole weight gradient is ever held.
    Without gradients pass 1 is all.
    """
    hidden, weight = inputs.student_hidden, inputs.student_weight
    quarter = max(1, -(-min(plan.chunk, inputs.rows) // 4))
    student, teacher = state.logits(quarter), state.logits(quarter)
    for part in chunks(inputs.rows, quarter):
        count = part.stop - part.start
        torch.mm(hidden[part], weight.mT, out=student[:count])
        torch.mm(inputs.teacher_hidden[part], inputs.teacher_weight.mT, out=teacher[:count])
        state.rows(part, student[:count], teacher[:count], gradient=False)
        state.group(part, student[:count], gradient=False)
    del student, teacher
    if not plan.gradients:
        return state.result()
    width = max(256, min(inputs.vocabulary, _LEAN_ENTRIES // max(1, inputs.rows)) // 256 * 256)
    hidden_sum = torch.zeros_like(hidden, dtype=torch.float32)
    weight_gradient, bias_sum = state.sums(plan, plan.weight_dtype)
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
    inputs, entries = state.inputs, 1024
    common = state.common()
    for name, bias in (("student_bias", inputs.student_bias), ("teacher_bias", inputs.teacher_bias)):
        if bias is not None:
            common[name] = bias[block]
    block_kernel[(inputs.rows, triton.cdiv(block.stop - block.start, entries))](
        student=student,
        teacher=teacher,
        row_stride=student.stride(0),
        weights=inputs.weights,
        statistics=state.statistics,
        indices=state.indices,
        pair_gradient=state.slopes,
        first=block.start,
        width=block.stop - block.start,
        PAIRS=state.pairs,
        GROUP=state.slopes.shape[1],
        GROUP_PAD=state.group_pad,
        BLOCK=entries,
        num_warps=4,
        **common,
    )


def _pairs_alone(state: _State, inputs: HeadInputs, plan: HeadPlan) -> HeadResult:
    """No divergence: the teacher's logits choose the group, the student's are never made."""
    hidden_gradient = torch.empty_like(inputs.student_hidden) if plan.gradients else None
    if state.choice != "given":
        quarter = max(1, -(-min(plan.chunk, inputs.rows) // 4))
        teacher = state.logits(quarter)
        for part in chunks(inputs.rows, quarter):
            some = teacher[: part.stop - part.start]
            torch.mm(inputs.teacher_hidden[part], inputs.teacher_weight.mT, out=some)
            state.rows(part, some, some, gradient=False)
            state.group(part, some, gradient=False, hidden_gradient=hidden_gradient)
        del teacher, some
    else:
        every = slice(0, inputs.rows)
        state.group(every, inputs.student_hidden, gradient=False, hidden_gradient=hidden_gradient)
    if hidden_gradient is None:
        return state.result()
    weight_gradient = bias_sum = None
    if plan.weight_gradient:
        weight_gradient = _pairs_triton.weight_gradient(inputs, state.indices, state.slopes, plan.weight_dtype)
        if inputs.student_bias is not None:
            bias_sum = _pairs_triton.bias_gradient(inputs, state.indices, state.slopes)
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
