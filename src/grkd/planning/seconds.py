"""How long Triton compiled kernels: the next process finds them on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
