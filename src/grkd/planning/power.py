"""What a comparison can show: the smallest difference between two methods that its seeds and questions would find."""

import math
from dataclasses import dataclass

from grkd.metrics.registry import Metric, share
from grkd.statistics import pairs_needed, shown_difference

_SHARE = share("share", "share")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the difference of two methods on one seed varies. deviation: in the metric's own unit. source: in words."""

    deviation: float
    source: str
    metric: Metric = _SHARE


def assumed(*, questions: int, unit: str, seed_deviation: float = 0.01, question_variance: float = 0.2) -> Spread:
    """Without an earlier comparison: variance 2 * seed_deviation^2 + question_variance / questions.

    seed_deviation: of a method's metric between seeds, as a share. question_variance: of the difference of two students
    on one question; for right or wrong it is the share of questions that only one of them answers.
    """
    deviation = math.sqrt(2 * seed_deviation**2 + question_variance / max(1, questions))
    source = f"assuming {100 * seed_deviation:.1f} points between seeds and {question_variance:.0%} of {unit} answered "
    return Spread(deviation=deviation, source=f"{source}differently; --from RUN uses the spread of an earlier run")


def sentences(spread: Spread, *, seeds: int, questions: int, unit: str) -> list[str]:
    """Power of the paired test over seeds, in words."""
    metric = spread.metric
    of = "" if metric is _SHARE else f" of {metric.label}"
    if seeds < 3:  # what the report tests
        first = f"power: with {seeds} {'seed' if seeds == 1 else 'seeds'} no method can be called better"
    else:
        shown = shown_difference(spread.deviation, seeds)
        words = "no difference at all" if metric.is_share and not shown < 1 else f"{size(shown, metric)}{of}"
        first = f"power: with {seeds} seeds and {questions:,} {unit} you can detect {words} with 80 % power"
    found = []
    for difference in (0.01, 0.03) if metric.is_share else (spread.deviation / 2, 2 * spread.deviation):
        needed = pairs_needed(difference, spread.deviation)
        count = "more than 1,000 seeds" if needed is None else f"{max(3, needed)} seeds"
        found.append(f"{size(difference, metric)}: {count}")
    second = f"to detect a difference of {', '.join(found)}, with as many {unit}"
    source = f" ({spread.source})"
    return [first, second + source] if seeds < 3 else [first + source, second]


def size(difference: float, metric: Metric) -> str:
    """A difference as people read it: 1 point, 3.1 points, 0.012 nats."""
    if metric.unit != "%":
        return f"{difference * metric.scale:.2g} {metric.unit}".strip()
    points = f"{100 * difference:.1f}".removesuffix(".0")
    return f"{points} point{'' if points == '1' else 's'}"
