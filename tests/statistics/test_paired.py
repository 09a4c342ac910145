"""Shares, paired tests and corrections against scipy, statsmodels and hand-computed values."""

import math

import numpy as np
import pytest
from scipy import stats

from grkd import statistics

# Two models on 20 items: 9 both right, 2 both wrong, 8 only the first, 1 only the second.
FIRST = [1] * 9 + [0] * 2 + [1] * 8 + [0]
SECOND = [1] * 9 + [0] * 2 + [0] * 8 + [1]


def answers(size: int, share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(size) < share).astype(int)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (10, 10), (681, 1319)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_by_its_formula(successes: int, trials: int, level: float) -> None:
    p, z = successes / trials, stats.norm.ppf((1 + level) / 2)
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    found = statistics.wilson_interval(successes, trials, level=level)
    assert found == pytest.approx((p, centre - half, centre + half), abs=1e-12)


def test_wilson_of_nothing() -> None:
    assert statistics.wilson_interval(0, 0) == pytest.approx((math.nan,) * 3, nan_ok=True)
    with pytest.raises(ValueError, match="successes must be between 0 and the 3 trials"):
        statistics.wilson_interval(4, 3)


def test_mcnemar_by_hand() -> None:
    # 9 items differ, 1 of them for the second: p = 2 (1 + 9) / 2^9.
    assert statistics.mcnemar(FIRST, SECOND) == (8, 1, pytest.approx(20 / 512))
    assert statistics.mcnemar(SECOND, FIRST) == (1, 8, pytest.approx(20 / 512))
    assert statistics.mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    assert statistics.mcnemar([1, 0], [0, 1]) == (1, 1, 1.0)
    assert statistics.mcnemar([], []) == (0, 0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_is_that_of_statsmodels(seed: int) -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    a, b = answers(120, 0.6, seed), answers(120, 0.45, seed + 50)
    table = [[((a == x) & (b == y)).sum() for y in (1, 0)] for x in (1, 0)]
    found = statistics.mcnemar(a, b)
    assert found.p == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])


def test_mcnemar_refuses_what_is_not_right_or_wrong() -> None:
    for bad in ([0.5, 1.0], [math.nan, 1.0], [2, 1]):
        with pytest.raises(ValueError, match=r"0 \(wrong\) and 1 \(right\)"):
            statistics.mcnemar(bad, [1, 1])
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.mcnemar([1, 0], [1])


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, then never falling.
    assert statistics.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([0.01, math.nan, 0.03]) == pytest.approx([0.02, math.nan, 0.03], nan_ok=True)
    assert statistics.holm([]).size == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm([0.2, 1.2])


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).random(12) ** 3
    expected = multitest.multipletests(p_values, method="holm")[1]
    assert statistics.holm(p_values) == pytest.approx(expected)


def bootstrap_p(rarer: int, resamples: int, items: int) -> float:
    """What paired_bootstrap says of so many resamples on the rarer side of 0."""
    share = min(0.5, (1 + rarer) / (resamples + 1))
    return min(1.0, float(2 * stats.t.cdf(stats.norm.ppf(share) * math.sqrt((items - 1) / items), items - 1)))


@pytest.mark.parametrize("items", [6, 12])
def test_few_items_without_a_difference_are_called_different_in_one_of_twenty(items: int) -> None:
    drawn = np.random.default_rng(items).normal(size=(700, items))
    tested = [statistics.paired_bootstrap(row, np.zeros(items), resamples=2000) for row in drawn]
    wrong = sum(found.p < 0.05 for found in tested) / len(tested)
    missed = sum(not found.low <= 0 <= found.high for found in tested) / len(tested)
    assert 0.03 < wrong < 0.07  # plain percentiles: 0.14, 0.1
    assert 0.03 < missed < 0.07


def test_paired_bootstrap_is_scipys() -> None:
    generator = np.random.default_rng(2)
    a = np.exp(generator.normal(size=80))
    b = a + generator.normal(0.1, 0.5, size=80)
    found = statistics.paired_bootstrap(a, b, resamples=20_000)
    bounds = stats.bootstrap(
        (a - b,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    width = bounds.high - bounds.low
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(bounds.low, abs=0.03 * width)
    assert found.high == pytest.approx(bounds.high, abs=0.03 * width)
    # For a mean of 80 values the t test says about the same.
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_paired_bootstrap_of_two_groups_by_hand() -> None:
    # Differences 1, 5 in one group and -9 in the other: a resample gives 6/2, -3/3 or -18/2 with chances 1/4, 1/2, 1/4.
    found = statistics.paired_bootstrap([2.0, 9.0, 1.0], [1.0, 4.0, 10.0], groups=["x", "x", "y"], resamples=4000)
    assert found[:3] == pytest.approx((-1.0, -9.0, 3.0))
    # q = P(d* >= 0) = 1/4; T of one degree of freedom is Cauchy's: p = 1 - (2 / pi) atan(-Phi^-1(1/4) / sqrt(2)).
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(0.6745 / math.sqrt(2)), abs=0.03)


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(3)
    b = 5 * generator.normal(size=100)
    a = b + 0.3 + 0.1 * generator.normal(size=100)
    paired = statistics.paired_bootstrap(a, b)
    shuffled = statistics.paired_bootstrap(a, generator.permutation(b))
    assert 0.2 < paired.low < paired.high < 0.4
    assert paired.p == pytest.approx(bootstrap_p(0, 10_000, 100))
    assert shuffled.low < 0 < shuffled.high
    assert shuffled.p > 0.05


def test_paired_bootstrap_where_there_is_nothing_to_tell() -> None:
    assert statistics.paired_bootstrap([1.0, 0.0], [1.0, 0.0]) == (0.0, 0.0, 0.0, 1.0)
    nan = math.nan
    for a, b, groups, difference in (
        ([], [], None, nan),
        ([3.0], [1.0], None, 2.0),
        ([3.0, 4.0], [1.0, 1.0], [0, 0], 2.5),
        ([3.0, nan, 7.0], [1.0, 1.0, nan], None, 2.0),
    ):
        found = statistics.paired_bootstrap(a, b, groups=groups)
        assert found == pytest.approx((difference, nan, nan, nan), nan_ok=True)


def test_paired_bootstrap_p_goes_with_the_interval() -> None:
    generator = np.random.default_rng(4)
    decided = set()
    for _ in range(60):
        a = generator.normal(0.3, 1.0, size=30)
        found = statistics.paired_bootstrap(a, np.zeros(30), resamples=999)
        if abs(found.p - 0.05) > 0.01:
            outside = not found.low <= 0 <= found.high
            assert (found.p < 0.05) == outside
            decided.add(outside)
    assert decided == {True, False}


def test_paired_bootstrap_refuses() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="one group id per value"):
        statistics.paired_bootstrap([1.0, 2.0], [1.0, 2.0], groups=[1])
    with pytest.raises(ValueError, match="resamples"):
        statistics.paired_bootstrap([1.0, 2.0], [1.0, 2.0], resamples=0)
    with pytest.raises(ValueError, match="level"):
        statistics.paired_bootstrap([1.0, 2.0], [1.0, 2.0], level=1.0)


def test_bootstrap_of_any_figure_is_that_of_the_mean_for_the_mean() -> None:
    values = np.exp(np.random.default_rng(6).normal(size=50))
    found = statistics.bootstrap_statistic(lambda drawn: float(values[drawn].mean()), 50, resamples=2000)
    expected = statistics.bootstrap_interval(values, resamples=2000)
    assert found == pytest.approx(expected)
    median = statistics.bootstrap_statistic(lambda drawn: float(np.median(values[drawn])), 50, resamples=4000)
    bounds = stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval
    assert median == pytest.approx((np.median(values), bounds.low, bounds.high), rel=0.05)


def test_bootstrap_of_any_figure_without_enough_to_draw_from() -> None:
    nan = math.nan
    assert statistics.bootstrap_statistic(lambda drawn: 1.0, 0) == pytest.approx((nan,) * 3, nan_ok=True)
    assert statistics.bootstrap_statistic(lambda drawn: 1.0, 1) == pytest.approx((1.0, nan, nan), nan_ok=True)
    with pytest.raises(ValueError, match="resamples"):
        statistics.bootstrap_statistic(lambda drawn: 1.0, 5, resamples=0)


def test_a_ratio_of_group_sums_is_the_bootstrap_over_groups() -> None:
    generator = np.random.default_rng(7)
    values, groups = generator.normal(size=60), generator.integers(9, size=60)
    sums = [values[groups == group].sum() for group in range(9)]
    sizes = [(groups == group).sum() for group in range(9)]
    expected = statistics.bootstrap_interval(values, groups=groups)
    assert statistics.bootstrap_ratio(sums, sizes) == pytest.approx(expected)
    assert statistics.bootstrap_ratio([*sums, 0.0], [*sizes, 0]) == pytest.approx(expected)  # a group of nothing
    assert statistics.bootstrap_ratio([], []) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert statistics.bootstrap_ratio([3.0], [2]) == pytest.approx((1.5, math.nan, math.nan), nan_ok=True)


def test_paired_ratios_with_equal_sizes_are_the_paired_bootstrap() -> None:
    generator = np.random.default_rng(8)
    a, b = generator.normal(0.2, 1, size=40), generator.normal(size=40)
    ones = np.ones(40)
    assert statistics.paired_bootstrap_ratio(a, ones, b, ones) == pytest.approx(statistics.paired_bootstrap(a, b))
    # An item that either model has nothing of is left out.
    more = statistics.paired_bootstrap_ratio([*a, 5.0, 0.0], [*ones, 1, 0], [*b, 0.0, 9.0], [*ones, 0, 1])
    assert more == pytest.approx(statistics.paired_bootstrap(a, b))


def test_paired_ratios_of_two_items_by_hand() -> None:
    # a has 3 of 3 and 0 of 1, b 0 of 1 and 3 of 3. Resamples: both items 3/4 - 3/4, the first 1 - 0, the second 0 - 1.
    found = statistics.paired_bootstrap_ratio([3, 0], [3, 1], [0, 3], [1, 3], resamples=4000)
    assert found[:3] == pytest.approx((0.0, -1.0, 1.0))
    assert found.p == 1.0
    alone = statistics.paired_bootstrap_ratio([3], [4], [1], [4])
    assert alone == pytest.approx((0.5, math.nan, math.nan, math.nan), nan_ok=True)


def test_paired_ratios_are_those_of_plain_loops() -> None:
    generator = np.random.default_rng(9)
    sizes_a, sizes_b = generator.integers(1, 4, size=(2, 30)).astype(float)
    a, b = sizes_a * generator.random(30), sizes_b * generator.random(30)
    found = statistics.paired_bootstrap_ratio(a, sizes_a, b, sizes_b, resamples=500, seed=3)
    drawn = np.random.default_rng(3).integers(30, size=(500, 30))
    by_loop = []
    for rows in drawn:
        tops, bottoms = [0.0, 0.0], [0.0, 0.0]
        for row in rows:
            for side, (sums, sizes) in enumerate(((a, sizes_a), (b, sizes_b))):
                tops[side] += sums[row]
                bottoms[side] += sizes[row]
        by_loop.append(tops[0] / bottoms[0] - tops[1] / bottoms[1])
    assert found.difference == pytest.approx(a.sum() / sizes_a.sum() - b.sum() / sizes_b.sum())
    tail = stats.norm.cdf(math.sqrt(30 / 29) * stats.t.ppf(0.025, 29))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(by_loop, [tail, 1 - tail])))
    rarer = min(sum(d <= 0 for d in by_loop), sum(d >= 0 for d in by_loop))
    assert found.p == pytest.approx(bootstrap_p(rarer, 500, 30))


def test_columns_that_share_their_draws_give_what_each_gives_alone() -> None:
    generator = np.random.default_rng(4)
    ones, sizes = np.ones(600), generator.integers(1, 5, size=600).astype(float)
    gaps = np.where(generator.random(600) < 0.1, 0.0, sizes)  # rows of size 0 are left out
    columns = [
        (generator.normal(size=600), first, generator.normal(size=600), second)
        for first, second in ((ones, ones), (sizes, sizes), (sizes, ones), (gaps, sizes), (ones, ones))
    ]
    together = statistics.paired_bootstrap_ratios(columns, seed=7)
    assert together == [statistics.paired_bootstrap_ratio(*column, seed=7) for column in columns]
    a, _, b, _ = columns[0]
    drawn = np.random.default_rng(7).integers(600, size=(10_000, 600))
    tail = stats.norm.cdf(math.sqrt(600 / 599) * stats.t.ppf(0.025, 599))
    low, high = np.quantile((a - b)[drawn].sum(-1) / 600, [tail, 1 - tail])
    assert (together[0].low, together[0].high) == pytest.approx((low, high))
    assert statistics.paired_bootstrap_ratios([]) == []


def test_paired_ratios_refuse() -> None:
    with pytest.raises(ValueError, match=r"equal lengths, got \[1, 1, 2, 1\]"):
        statistics.paired_bootstrap_ratio([1.0], [1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="resamples"):
        statistics.paired_bootstrap_ratio([1.0, 2.0], [1, 1], [1.0, 2.0], [1, 1], resamples=0)


@pytest.mark.parametrize("size", [2, 4, 5, 6, 30])
def test_a_few_items_are_no_evidence_however_clear_they_look(size: int) -> None:
    """All differences of one sign: the sign test's p is the least that such items can show."""
    generator = np.random.default_rng(size)
    a = 1 + 0.01 * generator.random(size)
    least = stats.binomtest(size, size).pvalue
    expected = pytest.approx(max(least, bootstrap_p(0, 10_000, size)))
    assert statistics.paired_bootstrap(a, np.zeros(size)).p == expected
    ones = np.ones(size)
    assert statistics.paired_bootstrap_ratio(a, ones, np.zeros(size), ones).p == expected
    assert statistics.paired_bootstrap_ratio(2 * a, 2 * ones, np.zeros(size), ones).p == expected
    assert (statistics.paired_bootstrap(a, np.zeros(size)).p < 0.05) == (size > 5)
