"""How long Triton compiled kernels, which the next process finds on disk; how long results and page take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grkd.recipe import Recipe
from grkd.reports import read_run, write_page
from grkd.run.jobs import DONE
from grkd.run.results import collect


@contextmanager
def compile_time() -> Iterator[Callable[[], float]]:
    """A function that gives the seconds that kernels were compiled for inside; 0 without a Triton that says so."""
    seconds = 0.0
    try:
        from triton import knobs
    except ImportError:
        yield lambda: seconds
        return

    def compiled(*, times: Any, cache_hit: bool, **_: Any) -> None:
        nonlocal seconds
        seconds += 0.0 if cache_hit else times.total / 1e6  # microseconds

    before, knobs.compilation.listener = knobs.compilation.listener, compiled
    try:
        yield lambda: seconds
    finally:
        knobs.compilation.listener = before


def report_seconds(recipe: Recipe, folder: Path) -> float:
    """Seconds of results and page of a miniature, which are written."""
    begin = time.perf_counter()
    names = (f"{method.label}-seed{seed}" for method in recipe.methods for seed in recipe.seeds)
    collect(recipe, folder, dict.fromkeys(names, DONE))
    write_page([read_run(folder)], folder / "report.html")
    return time.perf_counter() - begin
