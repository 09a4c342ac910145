"""Log-probabilities of chosen tokens from hidden states and an lm_head, a chunk of rows' logits at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from grkd.errors import UserError
from grkd.kernels._available import use_triton
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._head_call import gathered
from grkd.kernels._inputs import chunks
from grkd.kernels._options import Implementation
from grkd.kernels._products import add_product, sum_dtype, wide_product


@outside_graphs
def selected_log_probs(
    hidden: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    labels: Int[Tensor, " rows"],
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    vocabulary: int | None = None,
    chunk: int = 1024,
    implementation: Implementation = "auto",
) -> Float[Tensor, " rows"]:
    """log softmax(cap(h W^T + b) / temperature)[label], in nats and at least float32: one value per row.

    No [rows, vocabulary] tensor: `chunk` rows of float32 logits at a time, computed again in the backward pass.
    cap(x) = softcap * tanh(x / softcap).
    labels: token of each row; below 0 the row gives 0 and no gradient, whatever its hidden state holds (NaN too).
    vocabulary: the softmax is over the first so many entries (an lm_head may be padded); None takes all.
    implementation: "triton" reads the logits once in each direction; "torch" takes about 20 passes; "auto" takes
    Triton on CUDA.
    Gradients: hidden, weight and bias; the weight's is summed over chunks in float32. Products run in hidden's dtype,
    or in autocast's. DTensor weights are gathered, their gradients averaged over ranks as FSDP2 does.
    Raises UserError for options out of range or an implementation that cannot run, ValueError for shapes that do not
    fit and, on a CPU, for a label beyond the vocabulary.
    """
    for name, number in (("temperature", temperature), ("softcap", softcap), ("chunk", chunk)):
        if number is not None and not number > 0:
            raise UserError(f"{name} must be above 0, got {number}")
    weight = gathered(weight)
    cut = weight.shape[0] if vocabulary is None else vocabulary
    if not 1 <= cut <= weight.shape[0]:
        raise UserError(f"vocabulary must be between 1 and {weight.shape[0]} (the lm_head's entries), got {cut}")
    if labels.shape != hidden.shape[:1] or weight.shape[1:] != hidden.shape[1:]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and labels {tuple(labels.shape)} do not fit: "
            "they must be [rows, hidden], [vocabulary, hidden] and [rows]"
        )
    if not labels.is_cuda and labels.numel() and int(labels.max()) >= cut:
        raise ValueError(f"labels hold token {int(labels.max())}, the vocabulary has {cut} entries")
    call = _Call(
        softcap=softcap,
        temperature=temperature,
        vocabulary=cut,
        chunk=chunk,
        dtype=_product_dtype(hidden),
        triton=use_triton(hidden, implementation),
    )
    found: Tensor = _Selected.apply(hidden, weight, None if bias is None else gathered(bias), labels.long(), call)
    return found


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    if hidden.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return hidden.dtype
    return torch.get_autocast_dtype(kind)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """The options of one call, the dtype of its matrix products, and whether Triton makes the passes over logits."""

    softcap: float | None
    temperature: float
    vocabulary: int
    chunk: int
    dtype: torch.dtype
    triton: bool

    def weights(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight [vocabulary, hidden] in the products' dtype, bias [vocabulary] in the logits'."""
        bias = None if bias is None else bias[: self.vocabulary].to(sum_dtype(self.dtype, accumulate="float32"))
        return weight[: self.vocabulary].to(self.dtype), bias

    def states(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """A chunk's hidden states, 0 if the row does not count: 0 * NaN would reach the weight's gradient."""
        return torch.where((labels >= 0).unsqueeze(-1), hidden, 0.0).to(self.dtype)

    def capped(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Logits in float32 (float64), or tanh(logits / softcap) if there is a cap: [chunk, vocabulary]."""
        logits = wide_product(states, weight.mT)
        if bias is not None:
            logits.add_(bias)
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_()

    @property
    def scale(self) -> float:
        """From what `capped` gives to the softmax's argument."""
        return (1.0 if self.softcap is None else self.softcap) / self.temperature


class _Selected(torch.autograd.Function):
    """Forward keeps one log-sum-exp a row; backward makes the logits again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, call: _Call) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            log_sums = hidden.new_zeros(len(hidden), dtype=sum_dtype(call.dtype, accumulate="float32"))
            chosen = torch.zeros_like(log_sums)
            cut, cut_bias = call.weights(weight, bias)
            for part in chunks(len(hidden), call.chunk):
                states = call.states(hidden[part], labels[part])
                chosen[part], log_sums[part] = _statistics(call, states, cut, cut_bias, labels[part])
        ctx.call = call
        ctx.save_for_backward(hidden, weight, bias, labels, log_sums)
        return torch.where(labels >= 0, chosen - log_sums, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        hidden, weight, bias, labels, log_sums = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = torch.where(labels >= 0, upstream, 0.0)
        # Taken out until the end: 1 / rows inside a float16 gradient would underflow.
        largest = rows.abs().amax().clamp_min(torch.finfo(rows.dtype).tiny) if len(rows) else rows.sum()
        with torch.autocast(hidden.device.type, enabled=False):
            found = _gradients(ctx.call, hidden, weight, bias, labels, log_sums, rows / largest, wanted)
        return (
            *(
                None if gradient is None else gradient.mul_(largest).to(tensor.dtype)
                for gradient, tensor in zip(found, (hidden, weight, bias), strict=True)
            ),
            None,
            None,
        )


def _gradients(
    call: _Call,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    log_sums: Tensor,
    rows: Tensor,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden, weight and bias of sum_r rows_r log p_r, in float32 (float64)."""
    cut, cut_bias = call.weights(weight, bias)
    hidden_sum = torch.zeros_like(hidden, dtype=rows.dtype) if wanted[0] else None
    weight_sum = torch.zeros_like(weight, dtype=rows.dtype) if wanted[1] else None
    bias_sum = torch.zeros_like(bias, dtype=rows.dtype) if wanted[2] and bias is not None else None
    for part in chunks(len(hidden), call.chunk):
        states = call.states(hidden[part], labels[part])
        exact = bias_sum is not None  # its gradient is a sum of slopes that are not rounded
        slope = _slopes(call, states, cut, cut_bias, labels[part], log_sums[part], rows[part], exact=exact)
        if bias_sum is not None:
            bias_sum[: call.vocabulary] += slope.sum(0)
        slope = slope.to(call.dtype)
        if hidden_sum is not None:
            hidden_sum[part] = wide_product(slope, cut)
        if weight_sum is not None:
            add_product(weight_sum[: call.vocabulary], slope.mT, states, first=False)
        del slope
    return hidden_sum, weight_sum, bias_sum


def _statistics(
    call: _Call, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Score of the label and log-sum-exp of each row of a chunk."""
    if call.triton:
        from grkd.kernels import _log_probs_triton as triton

        logits = wide_product(states, weight.mT)
        return triton.statistics(logits, labels, bias=bias, softcap=call.softcap, temperature=call.temperature)
    scores = call.capped(states, weight, bias)
    if call.scale != 1:
        scores.mul_(call.scale)
    chosen = scores.gather(1, labels[:, None].clamp_min(0)).squeeze(1)
    # torch.logsumexp would hold a second [chunk, vocabulary] tensor.
    largest = scores.amax(1, keepdim=True)
    return chosen, scores.sub_(largest).exp_().sum(1).log_() + largest.squeeze(1)


def _slopes(
    call: _Call,
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    log_sums: Tensor,
    rows: Tensor,
    *,
    exact: bool,
) -> Tensor:
    """rows * (one-hot - softmax) / temperature, times the cap's slope: by the raw logits, in float32 (float64).

    Rounded to the products' dtype unless exact, where Triton does it in the same pass.
    """
    if call.triton:
        from grkd.kernels import _log_probs_triton as triton

        logits = wide_product(states, weight.mT)
        return triton.slopes(
            logits,
            labels,
            log_sums,
            rows,
            bias=bias,
            softcap=call.softcap,
            temperature=call.temperature,
            dtype=rows.dtype if exact else call.dtype,
        )
    capped = call.capped(states, weight, bias)
    slope = capped if call.softcap is None else capped.clone()
    if call.scale != 1:
        slope.mul_(call.scale)
    slope.sub_(log_sums.unsqueeze(1)).exp_().neg_()
    slope.scatter_add_(1, labels.unsqueeze(1).clamp_min(0), torch.ones_like(slope[:, :1]))
    slope.mul_((rows / call.temperature).unsqueeze(1))
    return slope if call.softcap is None else slope.mul_(capped.square_().neg_().add_(1))
