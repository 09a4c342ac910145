"""How large a difference a paired comparison can show, and how many pairs would show one."""

import math

_MOST_PAIRS = 1_000


def power(difference: float, deviation: float, pairs: int, *, level: float = 0.95) -> float:
    """The chance that a paired t test shows a true difference: P(|T| > t_{(1 + level) / 2, n - 1}).

    T: noncentral t with n - 1 degrees of freedom and noncentrality |difference| sqrt(n) / deviation. deviation: of the
    differences between pairs. Raises ValueError below two pairs, and for a deviation that is not above 0.
    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988), ch. 2.
    """
    if pairs < 2:
        raise ValueError(f"a paired test needs 2 pairs or more, got {pairs}")
    if not deviation > 0:
        raise ValueError(f"the deviation must be above 0, got {deviation}")
    from scipy import stats  # takes a second

    bound = stats.t.ppf((1 + level) / 2, pairs - 1)
    shift = abs(difference) * math.sqrt(pairs) / deviation
    # The lower tail underflows to NaN if the shift is large; there it is 0.
    lower = float(stats.nct.cdf(-bound, pairs - 1, shift))
    return float(stats.nct.sf(bound, pairs - 1, shift)) + (0.0 if math.isnan(lower) else lower)


def pairs_needed(difference: float, deviation: float, *, share: float = 0.8, level: float = 0.95) -> int | None:
    """The fewest pairs with which a true difference is shown with the chance `share`; None above 1,000."""
    low, high = 1, 2
    while power(difference, deviation, high, level=level) < share:
        low, high = high, 2 * high
        if low >= _MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, deviation, middle, level=level) >= share else (middle, high)
    return high


def shown_difference(deviation: float, pairs: int, *, share: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that so many pairs show with the chance `share`."""
    low, high = 0.0, deviation
    while power(high, deviation, pairs, level=level) < share:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, deviation, pairs, level=level) >= share else (middle, high)
    return high
