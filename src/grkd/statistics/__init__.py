"""How sure a metric is: intervals of means and shares, and paired comparisons of two models or methods.

Bounds that the data cannot give (a single seed, a single group) are NaN, never a made-up zero width.
JSON has no NaN: write it as null.
"""

from grkd.statistics._comparisons import (
    McNemar,
    PairedDifference,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_bootstrap_ratio,
    paired_bootstrap_ratios,
    paired_t,
)
from grkd.statistics._intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_ratio,
    bootstrap_statistic,
    seed_interval,
    wilson_interval,
)
from grkd.statistics._power import pairs_needed, power, shown_difference

__all__ = [
    "Interval",
    "McNemar",
    "PairedDifference",
    "bootstrap_interval",
    "bootstrap_ratio",
    "bootstrap_statistic",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_bootstrap_ratio",
    "paired_bootstrap_ratios",
    "paired_t",
    "pairs_needed",
    "power",
    "seed_interval",
    "shown_difference",
    "wilson_interval",
]
