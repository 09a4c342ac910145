"""Log-probabilities of chosen tokens against plain torch in float64, on dense logits.

With GRKD_KERNELS=triton (and TRITON_INTERPRET=1) the Triton kernels run, in float32: see test_interpreter.py.
"""

import os
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grkd import kernels
from grkd.errors import UserError

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
CLOSE = {"rtol": 2e-5, "atol": 2e-5} if TRITON else {"rtol": 1e-9, "atol": 1e-12}
DTYPE = torch.float32 if TRITON else torch.float64
not_interpreted = pytest.mark.skipif(TRITON, reason="of the torch form, or of dtypes that the interpreter has not")


def selected_log_probs(*arguments: Any, **options: Any) -> Tensor:
    return kernels.selected_log_probs(*arguments, **options, implementation="triton" if TRITON else "auto")


def case(rows: int = 9, vocabulary: int = 13, width: int = 5, dtype: torch.dtype = DTYPE) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    labels = torch.randint(vocabulary, (rows,), generator=generator)
    labels[1::4] = -100
    return {
        "hidden": draw(rows, width),
        "weight": draw(vocabulary, width),
        "labels": labels,
        "bias": draw(vocabulary),
    }


def dense(inputs: dict[str, Any], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """The documented formula on all logits at once in float64, and its leaves."""
    hidden, weight, bias = (inputs[name].detach().double().requires_grad_() for name in ("hidden", "weight", "bias"))
    cut = options.get("vocabulary")
    logits = torch.nn.functional.linear(hidden, weight, bias)[:, :cut]
    cap = options.get("softcap")
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    every = (logits / options.get("temperature", 1.0)).log_softmax(-1)
    labels = inputs["labels"]
    found = torch.where(labels >= 0, every.gather(1, labels.clamp_min(0)[:, None])[:, 0], 0.0)
    return found, [hidden, weight, bias]


def upstream(rows: int) -> Tensor:
    return torch.linspace(-1, 2, rows, dtype=torch.float64)


def check(inputs: dict[str, Any], close: dict[str, float] = CLOSE, **options: Any) -> None:
    """Values and the three gradients equal the dense ones."""
    oracle = {name: option for name, option in options.items() if name != "chunk"}
    expected, leaves = dense(inputs, **oracle)
    expected.backward(upstream(len(expected)))
    found = selected_log_probs(**inputs, **options)
    found.backward(upstream(len(found)).to(found.dtype))
    torch.testing.assert_close(found.detach().double(), expected.detach(), **close)
    for name, leaf in zip(("hidden", "weight", "bias"), leaves, strict=True):
        torch.testing.assert_close(inputs[name].grad.double(), leaf.grad, **close)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [None, 13, 10])
def test_values_and_gradients(softcap: float | None, temperature: float, vocabulary: int | None) -> None:
    inputs = case()
    if vocabulary:
        inputs["labels"] = inputs["labels"].clamp_max(vocabulary - 1)
    check(inputs, softcap=softcap, temperature=temperature, vocabulary=vocabulary, chunk=4)


def test_odd_shapes_in_float32() -> None:
    rows, chunk = (37, 16) if TRITON else (507, 64)
    inputs = case(rows, 123, 31, torch.float32)
    check(inputs, {"rtol": 2e-5, "atol": 2e-4}, chunk=chunk, softcap=30.0)
    assert inputs["weight"].grad.dtype == torch.float32


@not_interpreted
def test_gradcheck() -> None:
    inputs = case(5, 7, 3)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"softcap": 2.0, "temperature": 1.3, "vocabulary": 6, "chunk": 2}
        return selected_log_probs(hidden, weight, inputs["labels"].clamp_max(5), bias=bias, **options)

    assert torch.autograd.gradcheck(function, (inputs["hidden"], inputs["weight"], inputs["bias"]))


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_chunks_do_not_matter(chunk: int) -> None:
    check(case(19 if TRITON else 33), chunk=chunk)


def test_without_bias_and_with_a_frozen_weight() -> None:
    inputs = case()
    del inputs["bias"]
    weight = inputs.pop("weight").detach()
    found = selected_log_probs(**inputs, weight=weight)
    found.sum().backward()
    expected, (hidden, *_) = dense({**inputs, "weight": weight, "bias": torch.zeros(13, dtype=torch.float64)})
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    torch.testing.assert_close(inputs["hidden"].grad.double(), hidden.grad, **CLOSE)
    assert weight.grad is None


class Largest(TorchDispatchMode):
    """The most entries of a floating-point tensor that any operation made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return found


@not_interpreted
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_no_logits_of_all_rows(softcap: float | None) -> None:
    inputs = case(64, 50, 3)
    with Largest() as seen:
        selected_log_probs(**inputs, chunk=8, softcap=softcap).sum().backward()
    assert seen.entries == 8 * 50
    with Largest() as dense_seen:
        dense(inputs)[0].sum().backward()
    assert dense_seen.entries >= 64 * 50


def test_rows_without_a_label_may_hold_anything() -> None:
    inputs, clean = case(), case()
    off = inputs["labels"] < 0
    inputs["hidden"] = inputs["hidden"].detach().masked_fill(off[:, None], torch.nan).requires_grad_()
    found = selected_log_probs(**inputs, chunk=4)
    expected = selected_log_probs(**clean, chunk=4)
    # A NaN that comes back for a row without a label goes no further either.
    found.backward(torch.where(off, torch.nan, upstream(9)))
    expected.backward(torch.where(off, 0.0, upstream(9)))
    torch.testing.assert_close(found, expected)
    assert (found[off] == 0).all()
    assert (inputs["hidden"].grad[off] == 0).all()
    for name in ("hidden", "weight", "bias"):
        torch.testing.assert_close(inputs[name].grad, clean[name].grad)


@pytest.mark.parametrize("rows", [0, 9])
def test_no_label_at_all(rows: int) -> None:
    inputs = case(rows)
    inputs["labels"] = torch.full((rows,), -100)
    found = selected_log_probs(**inputs, chunk=4)
    found.sum().backward()
    assert found.tolist() == [0.0] * rows
    for name in ("hidden", "weight", "bias"):
        assert (inputs[name].grad == 0).all()


def test_padding_of_the_vocabulary_gets_no_gradient() -> None:
    inputs = case()
    inputs["weight"] = inputs["weight"].detach().index_fill(0, torch.tensor([11, 12]), 50.0).requires_grad_()
    inputs["labels"] = inputs["labels"].clamp_max(10)
    selected_log_probs(**inputs, vocabulary=11).sum().backward()
    assert (inputs["weight"].grad[11:] == 0).all()
    assert (inputs["bias"].grad[11:] == 0).all()
    assert inputs["weight"].grad[:11].abs().min() > 0


def test_used_twice_and_backward_twice() -> None:
    inputs = case()
    found = selected_log_probs(**inputs, chunk=4)
    (once,) = torch.autograd.grad(found.sum(), inputs["weight"], retain_graph=True)
    (both,) = torch.autograd.grad(found.sum() + 2 * found.sum(), inputs["weight"], retain_graph=True)
    (again,) = torch.autograd.grad(found.sum(), inputs["weight"])
    torch.testing.assert_close(both, 3 * once)
    torch.testing.assert_close(again, once)


def test_scores_of_any_size_are_finite() -> None:
    inputs = case()
    inputs["hidden"] = (inputs["hidden"].detach() * 1e4).requires_grad_()
    check(inputs, {"rtol": 1e-5, "atol": 2e-2} if TRITON else {"rtol": 1e-9, "atol": 1e-8}, chunk=4)


@not_interpreted
def test_tiny_upstream_gradients_survive_float16() -> None:
    inputs = case(dtype=torch.float16)
    found = selected_log_probs(**inputs)
    (gradient,) = torch.autograd.grad(found, inputs["hidden"], torch.full_like(found, 1e-5), retain_graph=True)
    (whole,) = torch.autograd.grad(found, inputs["hidden"], torch.ones_like(found))
    torch.testing.assert_close(gradient.double(), 1e-5 * whole.double(), rtol=2e-2, atol=6e-8)


@not_interpreted
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_float64_as_plain_torch(autocast: bool) -> None:
    inputs = case(61, 123, 64, torch.float32 if autocast else torch.bfloat16)
    expected, leaves = dense(inputs)
    expected.backward(upstream(61))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = selected_log_probs(**inputs, chunk=16)
        plain_leaves = [inputs[name].detach().clone().requires_grad_() for name in ("hidden", "weight", "bias")]
        every = torch.nn.functional.linear(*plain_leaves).float().log_softmax(-1)
        labels = inputs["labels"]
        plain = torch.where(labels >= 0, every.gather(1, labels.clamp_min(0)[:, None])[:, 0], 0.0)
    assert found.dtype == torch.float32
    found.backward(upstream(61).float())
    plain.backward(upstream(61).float())

    def error(tensor: Tensor, reference: Tensor) -> float:
        return float((tensor.double() - reference).norm() / reference.norm())

    assert error(found.detach(), expected.detach()) <= error(plain.detach(), expected.detach()) + 1e-4
    for name, leaf, other in zip(("hidden", "weight", "bias"), leaves, plain_leaves, strict=True):
        assert inputs[name].grad.dtype == inputs[name].dtype
        assert error(inputs[name].grad, leaf.grad) <= error(other.grad, leaf.grad) + 1e-4


@not_interpreted
def test_autocast_reaches_the_products() -> None:
    inputs = case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = selected_log_probs(**inputs)
    exact = selected_log_probs(**inputs)
    assert 0 < (rounded - exact).abs().max() < 0.1


@pytest.mark.parametrize(
    ("option", "named"),
    [({"temperature": 0.0}, "temperature"), ({"softcap": -1.0}, "softcap"), ({"chunk": 0}, "chunk")]
    + [({"vocabulary": wrong}, "vocabulary") for wrong in (0, 14)],
)
def test_options_out_of_range_are_named(option: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        selected_log_probs(**case(), **option)


def test_shapes_that_do_not_fit() -> None:
    inputs = case()
    with pytest.raises((ValueError, TypeCheckError), match="labels"):
        selected_log_probs(**{**inputs, "labels": inputs["labels"][:3]})
    with pytest.raises(ValueError, match="token"):
        selected_log_probs(**{**inputs, "labels": inputs["labels"].clamp_min(0) + 12})
