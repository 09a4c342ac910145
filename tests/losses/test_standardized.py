"""Logit standardisation against numpy-like arithmetic in plain Python."""

import math
import statistics

import pytest
import torch

from grkd.losses import soft_target, standardized


def test_equals_z_scores_of_the_unmasked() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(4, 6, generator=generator, dtype=torch.float64) + 2
    mask = torch.rand(4, 6, generator=generator) < 0.7
    found = standardized(scores.masked_fill(~mask, math.nan), mask=mask)
    for row, exists in enumerate(mask):
        values = scores[row, exists].tolist()
        mean, deviation = statistics.fmean(values), statistics.pstdev(values)
        assert found[row, exists].tolist() == pytest.approx([(value - mean) / deviation for value in values])
        assert (found[row, ~exists] == 0).all()


def test_gradcheck_and_bf16() -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[0, 3:] = False
    assert torch.autograd.gradcheck(lambda s: standardized(s, mask=mask), scores)
    assert standardized(scores.detach().bfloat16()).dtype == torch.float32


def test_scale_and_shift_of_either_side_do_not_matter() -> None:
    student, teacher = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1)
    )
    plain = soft_target(standardized(student), standardized(teacher), temperature=2.0)
    scaled = soft_target(standardized(5 * student - 3), standardized(0.1 * teacher + 7), temperature=2.0)
    torch.testing.assert_close(plain, scaled)
    assert not torch.allclose(plain, soft_target(student, teacher, temperature=2.0))


@pytest.mark.parametrize("masked", [False, True])
def test_constant_rows_have_zeros_and_no_gradient(masked: bool) -> None:
    scores = torch.tensor([[2.0, 2.0, 2.0], [0.0, 1.0, 5.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, True, False]]) if masked else None
    found = standardized(scores, mask=mask)
    found.sum().backward()
    assert (found[0] == 0).all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[0] == 0).all()
    if masked:
        assert (found[1] == 0).all()
