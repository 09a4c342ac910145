"""Weighted pairs on a GPU: the Triton form against the plain one in float64, and inside a CUDA graph."""

import pytest
import torch

from grkd.kernels.weighted_pairs import weighted_pairs
from grkd.losses import weighted_pairs as plain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("pair_target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "candidates", "masked"), [(256, 200, False), (7, 1000, True), (200, 123, True)])
def test_equals_the_plain_form(rows: int, candidates: int, masked: bool, dtype: torch.dtype, pair_target: str) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    student, teacher, importance = (
        (3 * torch.randn(rows, candidates, generator=generator, device="cuda")).to(dtype) for _ in range(3)
    )
    mask = torch.rand(rows, candidates, generator=generator, device="cuda") < 0.8 if masked else None
    options = {"mask": mask, "tau": 2.0, "pair_target": pair_target}
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    found = weighted_pairs(leaf, teacher, importance=importance, **options)
    expected = plain(exact, teacher.double(), importance=importance.double(), **options)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    error = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert error < (1e-6 if dtype == torch.float32 else 5e-3)


def test_inside_a_cuda_graph() -> None:
    student, teacher, importance = (torch.randn(64, 200, device="cuda") for _ in range(3))

    def gradient() -> torch.Tensor:
        leaf = student.detach().requires_grad_()
        loss = weighted_pairs(leaf, teacher, importance=importance, pair_target="soft").sum()
        return torch.autograd.grad(loss, leaf)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which still draws the numbers
    with torch.cuda.stream(stream):
        expected = gradient().clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradient()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(captured, expected)
