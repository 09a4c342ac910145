"""Intervals and tests against scipy, hand-computed values, and their coverage in small simulations."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from grkd import statistics
from grkd.statistics import _resampling


def normal(size: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, size)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bootstrap_agrees_with_scipy(level: float) -> None:
    values = np.exp(normal(60))
    found = statistics.bootstrap_interval(values, level=level, resamples=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_bootstrap_repeats_with_its_seed() -> None:
    values = normal(30)
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values, seed=0)
    assert statistics.bootstrap_interval(values) != statistics.bootstrap_interval(values, seed=1)


def test_bootstrap_in_batches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(30)
    whole = statistics.bootstrap_interval(values, resamples=101)
    monkeypatch.setattr(_resampling, "_DRAWS", 100)
    assert statistics.bootstrap_interval(values, resamples=101) == whole


def test_bootstrap_of_two_groups_by_hand() -> None:
    # Group sums 6 (of 2) and 2 (of 1). A draw of two groups gives 12/4, 8/3 or 4/2 with chances 1/4, 1/2, 1/4.
    found = statistics.bootstrap_interval([1.0, 5.0, 2.0], groups=["x", "x", "y"], resamples=1000)
    assert found == pytest.approx((8 / 3, 2.0, 3.0))
    inner = statistics.bootstrap_interval([1.0, 5.0, 2.0], groups=["x", "x", "y"], level=0.4, resamples=1000)
    assert inner == pytest.approx((8 / 3, 8 / 3, 8 / 3))


def test_groups_of_one_are_no_groups() -> None:
    values = normal(40)
    assert statistics.bootstrap_interval(values, groups=np.arange(40)) == pytest.approx(
        statistics.bootstrap_interval(values)
    )


def test_copies_within_groups_add_nothing() -> None:
    values = normal(25)
    grouped = statistics.bootstrap_interval(np.repeat(values, 10), groups=np.repeat(np.arange(25), 10))
    assert grouped == pytest.approx(statistics.bootstrap_interval(values))
    naive = statistics.bootstrap_interval(np.repeat(values, 10))
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_nan_values_are_left_out() -> None:
    values = normal(30)
    holes = np.insert(values, [0, 7, 30], math.nan)
    assert statistics.bootstrap_interval(holes) == statistics.bootstrap_interval(values)
    groups = np.arange(30) // 3
    held = np.insert(groups, [0, 7, 30], [99, 2, 9])  # group 99 holds nothing but NaN
    assert statistics.bootstrap_interval(holes, groups=held) == statistics.bootstrap_interval(values, groups=groups)


def test_bootstrap_without_enough_to_draw_from() -> None:
    assert statistics.bootstrap_interval([]) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert statistics.bootstrap_interval([math.nan]) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert statistics.bootstrap_interval([2.0]) == pytest.approx((2.0, math.nan, math.nan), nan_ok=True)
    alone = statistics.bootstrap_interval([1.0, 3.0], groups=[5, 5])
    assert alone == pytest.approx((2.0, math.nan, math.nan), nan_ok=True)


def test_coverage_of_groups_that_vary_together() -> None:
    """Prompts differ more than the tokens of one prompt: only drawing whole prompts covers the mean as promised."""
    generator = np.random.default_rng(5)
    groups, grouped, naive, trials = np.repeat(np.arange(30), 8), 0, 0, 200
    for _ in range(trials):
        values = generator.normal(size=30)[groups] + 0.5 * generator.normal(size=240)
        _, low, high = statistics.bootstrap_interval(values, groups=groups, resamples=300)
        grouped += low <= 0 <= high
        _, low, high = statistics.bootstrap_interval(values, resamples=300)
        naive += low <= 0 <= high
    assert 0.88 <= grouped / trials <= 0.99
    assert naive / trials < 0.75


def test_seed_interval_by_hand() -> None:
    # Mean 2, s = 1, t_{0.975, 2} = 4.302653.
    half = 4.302653 / math.sqrt(3)
    assert statistics.seed_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_seed_interval_is_scipys(level: float) -> None:
    values = normal(5)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    found = statistics.seed_interval(values, level)
    assert found == pytest.approx((values.mean(), expected.low, expected.high))


def test_coverage_of_seed_intervals() -> None:
    trials = normal((1000, 4), seed=3)
    covered = sum(low <= 1.0 <= high for _, low, high in map(statistics.seed_interval, trials))
    assert 0.93 <= covered / 1000 <= 0.97


def test_seed_interval_of_too_few_or_failed_seeds() -> None:
    assert statistics.seed_interval([0.7]) == pytest.approx((0.7, math.nan, math.nan), nan_ok=True)
    assert statistics.seed_interval([]) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert statistics.seed_interval([0.7, math.nan, 0.8]) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert statistics.seed_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_paired_t_is_scipys(level: float) -> None:
    a = normal(6)
    b = a + normal(6, seed=1)
    test = stats.ttest_rel(a, b)
    bounds = test.confidence_interval(level)
    expected = ((a - b).mean(), bounds.low, bounds.high, test.pvalue)
    assert statistics.paired_t(a, b, level) == pytest.approx(expected)
    swapped = statistics.paired_t(b, a, level)
    assert swapped == pytest.approx((-expected[0], -expected[2], -expected[1], expected[3]))


def test_paired_t_by_hand() -> None:
    # Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom; p = 1 - t / sqrt(2 + t^2).
    found = statistics.paired_t([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    half = 4.302653 / math.sqrt(3)
    assert found == pytest.approx((2.0, 2 - half, 2 + half, 1 - t / math.sqrt(2 + t * t)), rel=1e-6)


def test_paired_t_where_t_is_undefined() -> None:
    one = statistics.paired_t([3.0], [1.0])
    assert one == pytest.approx((2.0, math.nan, math.nan, math.nan), nan_ok=True)
    tie = statistics.paired_t([0.3, 0.4], [0.3, 0.4])
    assert tie == pytest.approx((0.0, 0.0, 0.0, math.nan), nan_ok=True)
    rounded = statistics.paired_t([0.3, 0.4, 0.7], [0.2, 0.3, 0.6])  # all 0.1, but for rounding
    assert rounded == pytest.approx((0.1, 0.1, 0.1, math.nan), nan_ok=True)
    assert statistics.paired_t([], []) == pytest.approx((math.nan,) * 4, nan_ok=True)
    assert statistics.paired_t([1.0, math.nan], [0.5, 1.0]) == pytest.approx((math.nan,) * 4, nan_ok=True)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_is_refused(level: float) -> None:
    for call in (
        lambda: statistics.bootstrap_interval([1.0, 2.0], level=level),
        lambda: statistics.seed_interval([1.0, 2.0], level),
        lambda: statistics.paired_t([1.0, 2.0], [2.0, 4.0], level),
    ):
        with pytest.raises(ValueError, match="level"):
            call()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one group id per value"):
        statistics.bootstrap_interval([1.0, 2.0], groups=[1])
    with pytest.raises(ValueError, match="one axis"):
        statistics.bootstrap_interval([[1.0, 2.0]])
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.paired_t([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="resamples"):
        statistics.bootstrap_interval([1.0, 2.0], resamples=0)


@pytest.mark.parametrize("right", [0, 1])
def test_a_share_that_is_the_same_everywhere_is_not_certain(right: int) -> None:
    values = np.full(12, float(right))
    assert statistics.bootstrap_interval(values)[1:] == (right, right)  # what resamples say
    assert statistics.bootstrap_interval(values, share=True) == statistics.wilson_interval(12 * right, 12)
    by_prompt = statistics.bootstrap_interval(values, groups=np.arange(12) // 4, share=True)
    assert by_prompt == statistics.wilson_interval(3 * right, 3)  # three groups know less than twelve
    mixed = np.append(values, 1.0 - right)
    assert statistics.bootstrap_interval(mixed, share=True) == statistics.bootstrap_interval(mixed)
    none = statistics.bootstrap_interval([math.nan], share=True)
    assert all(map(math.isnan, none))
