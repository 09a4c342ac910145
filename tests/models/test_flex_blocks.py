"""Flex attention: the form of the soft cap, and for which heads it has block sizes of its own."""

import pytest
import torch

from grkd.models import _packed_flex as kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize("softcap", [1.0, 50.0])
def test_the_cap_is_the_hyperbolic_tangent(softcap: float) -> None:
    """Values and slopes in float32, from 0 to far beyond the cap, against float64."""
    scores = torch.linspace(-20, 20, 401, requires_grad=True)
    exact = scores.detach().double().requires_grad_()
    capped, wanted = kernels._cap(softcap)(scores * softcap, 0, 0, 0, 0), softcap * torch.tanh(exact)
    assert float((capped - wanted).detach().abs().max()) < 1e-6 * softcap
    capped.sum().backward()
    wanted.sum().backward()
    assert scores.grad is not None
    assert exact.grad is not None
    assert float((scores.grad - exact.grad).abs().max()) < 1e-6 * softcap


@pytest.mark.parametrize(
    ("width", "dtype", "capability", "wide"),
    [
        (256, torch.bfloat16, (9, 0), True),
        (256, torch.float16, (9, 0), True),
        (256, torch.float32, (9, 0), False),  # twice the shared memory
        (128, torch.bfloat16, (9, 0), False),
        (256, torch.bfloat16, (8, 0), False),
    ],
)
def test_only_the_heads_that_were_measured_get_blocks_of_their_own(
    width: int, dtype: torch.dtype, capability: tuple[int, int], wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = kernels._blocks(width, dtype, torch.device("cuda"))
    assert found == (kernels._WIDE if wide else None)
    assert kernels._blocks(width, dtype, CPU) is None
