"""How much two methods' difference varied over the seeds of an earlier run, for the power of the next one."""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from grkd.errors import UserError
from grkd.files import read_json
from grkd.planning.power import Spread, assumed, sentences, size
from grkd.reports import read_run
from grkd.reports.seeds import LEAST_SEEDS
from grkd.reports.summary import paired_values, summarise
from grkd.reports.verdict import deciding_metric


def spread_of(folder: Path, *, questions: int) -> Spread:
    """The standard deviation over seeds of the difference of two methods in the deciding metric, all pairs together.

    questions: that the next run has. If both are of exact match, the share of the variance that questions make
    (the variance of a difference on one question, by their number) is that of so many.
    Raises UserError for a run without two methods that have three seeds in common.
    """
    run = read_run(folder)
    summary = summarise(run)
    metric = deciding_metric(summary)
    methods = {} if metric is None else {line.label: line.cells[metric.name].values for line in summary.methods}
    found = {
        (one, other): differences
        for one, other in itertools.combinations(methods, 2)
        if len(differences := paired_values(methods[one], methods[other])) >= LEAST_SEEDS
    }
    if metric is None or not found:
        raise UserError(
            f"--from {folder}: no two methods with {LEAST_SEEDS} seeds or more in it; give another run, or remove it"
        )
    variance = math.fsum(statistics.variance(each) for each in found.values()) / len(found)
    seeds = max(map(len, found.values()))
    source = f"{folder}: {len(methods)} methods, {seeds} seeds, their differences vary by "
    per_question = _per_question(folder, list(found)) if metric.name == "exact_match" else None
    if per_question is not None:
        own, count = per_question
        variance += min(variance, own / count) * (count / max(1, questions) - 1)
    if not variance > 0:
        raise UserError(f"--from {folder}: its methods differ equally for every seed; give another run, or remove it")
    deviation = math.sqrt(variance)
    return Spread(deviation=deviation, metric=metric, source=source + size(deviation, metric))


def can_show(folder: Path) -> bool:
    """Whether a folder holds a run from which a spread can be had."""
    try:
        return (folder / "results.json").is_file() and spread_of(folder, questions=1).deviation > 0
    except UserError:
        return False


def _per_question(folder: Path, pairs: Sequence[tuple[str, str]]) -> tuple[float, int] | None:
    """The variance of two students' difference on one question, and the number of questions; None without items."""
    found: list[float] = []
    count = 0
    for one, other in pairs:
        for path in sorted((folder / "evaluate").glob(f"{one}-seed*/exact_match.json")):
            seed = path.parent.name.removeprefix(f"{one}-seed")
            beside = folder / "evaluate" / f"{other}-seed{seed}" / "exact_match.json"
            if beside.is_file():
                sides = [[item["correct"] for item in read_json(each)] for each in (path, beside)]
                count = len(sides[0])
                found.append(statistics.pvariance([a - b for a, b in zip(*sides, strict=True)]))
    return (math.fsum(found) / len(found), count) if count else None


def power_of(
    earlier: Path | None, *, seeds: int, questions: int, unit: str, question_variance: float = 0.2
) -> list[str]:
    """What a comparison can show, by an earlier run or, without one, by assumption (see `assumed`)."""
    if earlier is not None:
        spread = spread_of(earlier, questions=questions)
    else:
        spread = assumed(questions=questions, unit=unit, question_variance=question_variance)
    return sentences(spread, seeds=seeds, questions=questions, unit=unit)
