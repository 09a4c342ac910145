"""All pairs: both fast forms against pairs spelt out in float64, and the bound of the interpolation.

With GRKD_KERNELS=triton (and TRITON_INTERPRET=1) the Triton kernels run: see test_interpreter.py.
"""

import os
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from grkd.errors import UserError
from grkd.kernels import _chebyshev, all_pairs
from grkd.losses import group_relative, pair_form

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
DTYPE = torch.float32 if TRITON else torch.float64
TILES = 70 if TRITON else 130  # candidates in several tiles
FORM: dict[str, Any] = {"implementation": "triton" if TRITON else "torch"}


def brute_force(s: Tensor, t: Tensor, mask: Tensor, tau: float, pair_target: str, normalize: str) -> Tensor:
    """The formula on every [i, j] in float64."""
    d = (s[:, :, None] - s[:, None, :]).double() / tau
    gap = (t[:, :, None] - t[:, None, :]).double() / tau
    q = torch.sigmoid(gap) if pair_target == "soft" else torch.ones_like(gap)
    loss = -(q * torch.nn.functional.logsigmoid(d) + (1 - q) * torch.nn.functional.logsigmoid(-d))
    pairs = (t[:, :, None] > t[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    total = torch.where(pairs, loss, 0.0).sum((1, 2))
    divisor = pairs.sum((1, 2)) if normalize == "pairs" else mask.sum(1)
    return total / divisor.clamp_min(1)


def scores(rows: int, candidates: int, spread: float, ties: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s = spread * torch.randn(rows, candidates, generator=generator, dtype=torch.float64)
    t = 3 * torch.randn(rows, candidates, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, candidates, generator=generator) < 0.8
    return s.to(DTYPE), (t.round() if ties else t).to(DTYPE), mask


def compare(s: Tensor, t: Tensor, mask: Tensor | None, tolerance: float, **options: Any) -> None:
    rule = {"tau": 1.0, "pair_target": "hard", "normalize": "pairs", **options}
    reference = s.double().requires_grad_()
    exists = torch.ones_like(s, dtype=torch.bool) if mask is None else mask
    expected = brute_force(reference, t, exists, **rule)
    upstream = torch.linspace(0.5, 2, len(s), dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(expected, reference, upstream)
    student = s.clone().requires_grad_()
    found = all_pairs(student, t, mask=mask, **rule, **FORM)
    (gradient,) = torch.autograd.grad(found, student, upstream.to(found.dtype))
    assert (found.double() - expected).norm() <= tolerance * (1e-3 + expected.norm())
    assert (gradient.double() - expected_gradient).norm() <= tolerance * (1e-6 + expected_gradient.norm())
    assert (gradient[~exists] == 0).all()


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
@pytest.mark.parametrize(("candidates", "spread"), [(2, 1.0), (37, 3.0), (TILES, 200.0)])
def test_tiles(candidates: int, spread: float, target: str, normalize: str) -> None:
    s, t, mask = scores(3, candidates, spread, ties=True)
    compare(s, t, mask, 1e-5 if TRITON else 1e-9, pair_target=target, normalize=normalize, tau=0.7)


@pytest.mark.parametrize("span", [42.9, 43.1, 83.0, 1000.0])
def test_every_pair_as_wrong_as_the_range_allows(span: float) -> None:
    """Where a pair is a product of two numbers, each factor is at its largest: two of them must fit into float32."""
    t = torch.arange(TILES, dtype=DTYPE).repeat(2, 1)
    s = torch.where(t < TILES // 2, span, 0.0).to(DTYPE)
    compare(s, t, None, 1e-5 if TRITON else 1e-9)


@pytest.mark.skipif(not TRITON, reason="a CPU sums every pair")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_interpolated(spread: float, masked: bool, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from grkd.kernels import _all_pairs_triton, _chebyshev_triton

    s, t, mask = scores(2, 40, spread, ties)
    monkeypatch.setattr(_all_pairs_triton, "_INTERPOLATE_FROM", 2)
    monkeypatch.setattr(_chebyshev_triton, "BLOCK", 32)
    # The tiles give nothing for a row whose range the nodes serve: only the sums can have made the value.
    compare(s, t, mask if masked else None, 2e-6)


@pytest.mark.skipif(TRITON, reason="the kernels choose on the device")
@pytest.mark.parametrize("target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_wide_rows_take_tiles_of_half_of_the_pairs(target: str, normalize: Any) -> None:
    """Value and gradient in float64 against autograd through every pair: ties, masked entries, rows of two tiles."""
    s, t, mask = scores(18, 300, 30.0, ties=True)
    mask[1], mask[2, 5:] = False, False
    student, reference = (s.clone().requires_grad_() for _ in range(2))
    rule: dict[str, Any] = {"mask": mask, "tau": 0.7, "normalize": normalize}
    seen = []
    known = pair_form(target)
    form = replace(known, value=lambda d, wanted: seen.append(d.numel()) or known.value(d, wanted))
    # The reference is held to the formula by hand in tests/losses.
    expected = group_relative(reference, t, pair_target=known, **rule)
    found = all_pairs(student, t, pair_target=form, **rule)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(0.5, 2, len(s), dtype=torch.float64)
    (gradient,), (other,) = (
        torch.autograd.grad(loss, x, upstream) for loss, x in ((found, student), (expected, reference))
    )
    torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)
    assert sum(seen) < 0.7 * len(s) * 300**2


@pytest.mark.skipif(TRITON, reason="the kernels choose on the device")
@pytest.mark.parametrize(("candidates", "form"), [(159, "group_relative"), (160, "tiled")])
def test_the_form_is_chosen_by_its_cost(candidates: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["grkd.kernels.all_pairs"]
    called = []
    for name in ("group_relative", "tiled"):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, original=original, **o: called.append(name) or original(*a, **o)
        )
    s, t, mask = scores(2, candidates, 1.0, ties=False)
    compare(s, t, mask, 3e-7)
    assert called == [form]


@pytest.mark.skipif(TRITON, reason="the bound belongs to the torch form")
@pytest.mark.parametrize("span", [0.5, 5.0, 20.0, 60.0])
@pytest.mark.parametrize("nodes", [16, 64, 128])
def test_error_stays_under_its_bound(span: float, nodes: int) -> None:
    """sigmoid(x - y) interpolated in x, for y at the ends and the middle of the interval."""
    m = torch.arange(nodes, dtype=torch.float64)
    angle = (m + 0.5) * torch.pi / nodes
    points, signs = span / 2 * angle.cos(), angle.sin() * (1 - 2 * (m % 2))
    x = torch.linspace(-span / 2, span / 2, 501, dtype=torch.float64)
    basis = signs / (x[:, None] - points + 1e-13)
    basis = basis / basis.sum(-1, keepdim=True)
    worst = 0.0
    for y in (-span / 2, 0.0, span / 3, span / 2):
        worst = max(worst, float((basis @ torch.sigmoid(points - y) - torch.sigmoid(x - y)).abs().max()))
    assert worst <= _chebyshev.error_bound(span, nodes) + 1e-10


def test_nodes_and_ranges_belong_together() -> None:
    for nodes in (64, 128, 256):
        span = _chebyshev.range_for(nodes)
        assert _chebyshev.error_bound(span, nodes) <= _chebyshev.TOLERANCE
        assert _chebyshev.error_bound(span * 1.2, nodes) > _chebyshev.TOLERANCE


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_without_pairs_give_zero(rows: int) -> None:
    s = torch.randn(rows, 9, dtype=DTYPE).requires_grad_()
    t = torch.ones(rows, 9, dtype=DTYPE)
    losses = all_pairs(s, t, **FORM)
    losses.sum().backward()
    assert losses.shape == (rows,)
    assert (losses == 0).all()
    assert (s.grad == 0).all()


def test_empty_mask_and_garbage_behind_it() -> None:
    s = torch.full((2, 20), torch.nan, dtype=DTYPE)
    s[1, :4] = torch.tensor([0.0, 1.0, 2.0, -1.0])
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[1, :4] = True
    t = torch.arange(20, dtype=DTYPE).expand(2, 20).masked_fill(~mask, torch.inf)
    student = s.requires_grad_()
    losses = all_pairs(student, t, mask=mask, **FORM)
    losses.sum().backward()
    expected = brute_force(s.detach()[1:, :4], t[1:, :4], mask[1:, :4], 1.0, "hard", "pairs")
    torch.testing.assert_close(losses[1:].double(), expected, rtol=1e-5, atol=0)
    assert losses[0] == 0
    assert student.grad.isfinite().all()


def test_bad_options_and_shapes() -> None:
    s = torch.zeros(2, 3, dtype=DTYPE)
    with pytest.raises(UserError, match="tau"):
        all_pairs(s, s, tau=0.0, **FORM)
    with pytest.raises((ValueError, TypeCheckError)):
        all_pairs(s, s[:, :2], **FORM)
    with pytest.raises((ValueError, TypeCheckError)):
        all_pairs(s, s, mask=torch.ones(2, 1, dtype=torch.bool), **FORM)
    with pytest.raises(UserError, match="implementation"):
        all_pairs(s.double(), s.double(), implementation="triton")
