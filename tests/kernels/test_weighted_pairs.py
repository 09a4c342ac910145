"""The Triton form of weighted pairs against the plain one in float64, through Triton's interpreter.

The interpreter is switched on before the first import of triton, hence another process, which runs this file again.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grkd.kernels.weighted_pairs import weighted_pairs
from grkd.losses import weighted_pairs as plain

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
interpreted = pytest.mark.skipif(not TRITON, reason="runs through the interpreter: see the last test")


@interpreted
@pytest.mark.parametrize("pair_target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
@pytest.mark.parametrize(("candidates", "spread", "masked"), [(2, 1.0, False), (37, 3.0, True), (130, 200.0, False)])
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


@pytest.mark.skipif(TRITON, reason="this is what runs the others")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_through_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GRKD_KERNELS": "triton", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:benchmark",
        __file__,
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "20 passed" in done.stdout


def test_on_a_cpu_it_is_the_plain_form() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, importance = (torch.randn(3, 9, generator=generator) for _ in range(3))
    found = weighted_pairs(student, teacher, importance=importance, tau=0.5, pair_target="margin")
    assert torch.equal(found, plain(student, teacher, importance=importance, tau=0.5, pair_target="margin"))
