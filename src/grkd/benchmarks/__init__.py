"""Benchmarks of `grkd eval`: one file each, which exports BENCHMARK. Nothing else knows them by name.

Importing this package and its benchmarks needs no torch: what is heavy is imported when a benchmark runs.
"""

from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Column, FromFile, Measure, Option, Result
from grkd.benchmarks._find import all_benchmarks, find, title_of
from grkd.benchmarks._results import asked, cost_of_answers, with_asked, without_interval
from grkd.benchmarks._settings import JudgeSettings, ModelSettings, Settings, check_numbers, settings_from

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session

__all__ = [
    "Benchmark",
    "Column",
    "FromFile",
    "JudgeSettings",
    "Measure",
    "ModelSettings",
    "Option",
    "Result",
    "Session",
    "Settings",
    "all_benchmarks",
    "asked",
    "check_numbers",
    "cost_of_answers",
    "find",
    "settings_from",
    "title_of",
    "with_asked",
    "without_interval",
]


def __getattr__(name: str) -> Any:
    if name == "Session":  # imports torch
        from grkd.benchmarks._session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
