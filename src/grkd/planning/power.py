"""What a comparison can show: the smallest difference between two methods that its seeds and questions would find."""

import math

from grkd.statistics import pairs_needed, shown_difference

_MOST_SHOWN = 1.0


def sentences(
    *, seeds: int, questions: int, unit: str, seed_deviation: float = 0.01, question_variance: float = 0.2
) -> list[str]:
    """Power of the paired test over seeds, in words.

    The difference of two methods on one seed has the variance 2 * seed_deviation^2 + question_variance / questions.
    seed_deviation: of a method's metric between seeds, as a share. question_variance: of the difference of two students
    on one question; for right or wrong it is the share of questions that only one of them answers.
    """
    deviation = deviation_of(questions, seed_deviation, question_variance)
    assumed = f"assuming {100 * seed_deviation:.1f} points between seeds and {question_variance:.0%} of {unit} decided "
    assumed += "differently"
    if seeds < 3:  # what the report tests
        first = f"power: with {seeds} {'seed' if seeds == 1 else 'seeds'} nothing can be called better ({assumed})"
    else:
        shown = shown_difference(deviation, seeds)
        words = f"{100 * shown:.1f} points" if shown < _MOST_SHOWN else "no difference at all"
        first = f"power: with {seeds} seeds and {questions:,} {unit} you will see {words} with 80 % chance ({assumed})"
    found = []
    for points in (1.0, 3.0):
        needed = pairs_needed(points / 100, deviation)
        found.append(
            f"{points:g} point{'' if points == 1 else 's'}: {'more than 1,000' if needed is None else needed} seeds"
        )
    return [first, f"to see a difference of {', '.join(found)}, with as many {unit}"]


def deviation_of(questions: int, seed_deviation: float, question_variance: float) -> float:
    """Standard deviation of the difference of two methods on one seed, as a share."""
    return math.sqrt(2 * seed_deviation**2 + question_variance / max(1, questions))
