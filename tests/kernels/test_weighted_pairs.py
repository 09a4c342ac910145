"""The Triton form of weighted pairs against the plain one in float64, through Triton's interpreter.

test_interpreter.py runs this file again, in a process that has the interpreter switched on.
"""

import os

import pytest
import torch

from grkd.kernels.weighted_pairs import weighted_pairs
from grkd.losses import weighted_pairs as plain

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
interpreted = pytest.mark.skipif(not TRITON, reason="runs through the interpreter: see test_interpreter.py")


@interpreted
@pytest.mark.parametrize("pair_target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
@pytest.mark.parametrize(("candidates", "spread", "masked"), [(2, 1.0, False), (37, 3.0, True), (70, 200.0, False)])
def test_equals_the_plain_form(candidates: int, spread: float, masked: bool, pair_target: str, normalize: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, importance = (torch.randn(3, candidates, generator=generator) for _ in range(3))
    student, teacher = spread * student, (3 * teacher).round()  # ties
    mask = torch.rand(3, candidates, generator=generator) < 0.8 if masked else None
    options = {"mask": mask, "tau": 1.7, "pair_target": pair_target, "normalize": normalize}
    if mask is not None:
        mask[1] = False
        student, teacher = (x.masked_fill(~mask, torch.nan) for x in (student, teacher))
    upstream = torch.linspace(0.5, 2, 3)
    leaf = student.clone().requires_grad_()
    found = weighted_pairs(leaf, teacher, importance=importance, implementation="triton", **options)
    (gradient,) = torch.autograd.grad(found, leaf, upstream)
    exact = student.double().requires_grad_()
    expected = plain(exact, teacher.double(), importance=importance.double(), **options)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-7)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-6, atol=1e-6 * scale + 1e-12)


@interpreted
def test_no_rows() -> None:
    empty = torch.zeros(0, 4)
    assert weighted_pairs(empty, empty, importance=empty, implementation="triton").shape == (0,)


def test_on_a_cpu_it_is_the_plain_form() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, importance = (torch.randn(3, 9, generator=generator) for _ in range(3))
    found = weighted_pairs(student, teacher, importance=importance, tau=0.5, pair_target="margin")
    assert torch.equal(found, plain(student, teacher, importance=importance, tau=0.5, pair_target="margin"))
