"""Power of paired tests against an integral over the spread of the sample, and the sizes that textbooks print."""

import pytest
from scipy import integrate, stats

from grkd.statistics import pairs_needed, power, shown_difference

SIZES = [(0.5, 1.0, 34), (2.0, 3.1, 5), (0.0, 1.0, 7), (-1.0, 2.0, 12)]


@pytest.mark.parametrize(
    ("difference", "deviation", "pairs"), [(0.5, 1.0, 34), (2.0, 3.1, 5), (0.0, 1.0, 7), (-1.0, 2.0, 12)]
)
def test_power(difference: float, deviation: float, pairs: int) -> None:
    free, shift = pairs - 1, difference * pairs**0.5 / deviation
    bound = stats.t.ppf(0.975, free)

    def given(squares: float) -> float:
        """Chance to be beyond either bound, times the density of the sample's sum of squares."""
        spread = bound * (squares / free) ** 0.5
        return float((stats.norm.sf(spread - shift) + stats.norm.cdf(-spread - shift)) * stats.chi2.pdf(squares, free))

    expected, _ = integrate.quad(given, 0, 40 * free, limit=500)
    assert power(difference, deviation, pairs) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_are_cohens(effect: float, pairs: int) -> None:
    assert pairs_needed(effect, 1.0) == pairs_needed(-3 * effect, 3.0) == pairs


def test_what_is_too_small() -> None:
    assert pairs_needed(0.01, 1.0) is None
    with pytest.raises(ValueError, match="2 pairs"):
        power(1.0, 1.0, 1)


@pytest.mark.parametrize("pairs", [3, 8, 40])
def test_shown_difference_turns_power_round(pairs: int) -> None:
    assert power(shown_difference(2.0, pairs), 2.0, pairs) == pytest.approx(0.8, abs=1e-6)
