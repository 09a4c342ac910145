"""Kernels under torch.compile: left out of the graphs, with the same values and gradients."""

import pytest
import torch
from torch._dynamo.utils import counters

from grkd.kernels._compiled import outside_graphs
from tests._type_checks import CALLS

traced: list[bool] = []


@outside_graphs
def kernel(scores: torch.Tensor) -> torch.Tensor:
    """Says whether it was traced."""
    traced.append(torch.compiler.is_compiling())
    return scores.sin()


def around(scores: torch.Tensor) -> torch.Tensor:
    return kernel(2 * scores) + 1


# Dynamo walks through the shape checks that tests put around every function, and looks at gradients on its way.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_kernel_is_never_traced_and_nothing_is_compiled_twice() -> None:
    torch._dynamo.reset()
    traced.clear()
    compiled = torch.compile(around, backend="eager")
    scores = torch.linspace(-1, 1, 5, requires_grad=True)
    found = compiled(scores)
    torch.testing.assert_close(found, (2 * scores).sin() + 1)
    found.sum().backward()
    torch.testing.assert_close(scores.grad, 2 * (2 * scores.detach()).cos())
    for _ in range(CALLS):  # after them the tests' own shape checks are out of the way
        compiled(scores)
    frames = counters["frames"]["total"]
    for _ in range(20):
        compiled(scores)
    assert counters["frames"]["total"] == frames
    assert len(traced) == 21 + CALLS
    assert not any(traced)
