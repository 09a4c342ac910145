"""Exact match: the share of right answers to the questions of a JSONL file (rules: grkd.metrics.exact_match)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Measure, Option
from grkd.errors import UserError
from grkd.metrics.registry import METRICS

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings


def check(settings: "Settings") -> None:
    """Raises UserError for a file of questions that is not given, missing or malformed."""
    from grkd.metrics.exact_match import read_questions

    read_questions(_questions_file(settings), limit=settings.limit)


def run(session: "Session") -> dict[str, Any]:
    """The share of right answers with its interval."""
    from grkd.benchmarks._exact_answers import answered

    return answered(session, _questions_file(session.settings), task="exact_match")


def _questions_file(settings: "Settings") -> Path:
    path = settings.option("questions")
    if path is None:
        raise UserError('--tasks exact_match needs --questions FILE, a JSONL file of {"question", "answer"}')
    return Path(path)


BENCHMARK = Benchmark(
    name="exact_match",
    title="exact match",
    order=5,
    check=check,
    run=run,
    measures=(Measure(metric=METRICS["accuracy"], key="correct", right_or_wrong=True),),
    options=(
        Option(name="questions", kind=Path, metavar="FILE", help='JSONL file of {"question", "answer"}, one per line'),
    ),
)
