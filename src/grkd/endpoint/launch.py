"""The limits of an endpoint that all processes of a launch ask: each process has a part of them."""

from pathlib import Path

from grkd.console import console
from grkd.endpoint.client import Budget, base_url
from grkd.files import digest

LEDGERS = ".budget-*"  # in a run's folder


class Budgets:
    """The budgets of a command: one for all that ask the same model with the same limits.

    folder: of the run. The students of a comparison, each of which may have a process of its own, count there in the
    same ledgers; the command that holds the folder's lock deletes them when it begins and ends.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[tuple[str, str, int | None, int | None], Budget] = {}

    def of(self, url: str, model: str, max_requests: int | None, max_tokens: int | None = None) -> Budget:
        """This process's part of the most requests and tokens (None: no limit)."""
        key = (base_url(url, "url"), model, max_requests, max_tokens)
        if key not in self._known:
            self._known[key] = budget_of(max_requests, max_tokens)
            if self._folder is not None and (max_requests or max_tokens) is not None:
                name = LEDGERS.replace("*", f"{digest(list(key))[:12]}-{_launch()[1]}.json")
                self._known[key].ledger = self._folder / name
        return self._known[key]


def budget_of(max_requests: int | None, max_tokens: int | None = None) -> Budget:
    """This process's part of the most requests and tokens (None: no limit); the first process says that they share."""
    (processes, index), shared = _launch(), ""
    if processes > 1 and (whole := max_requests or max_tokens) is not None:
        shared = f" (its part of {whole}, which {processes} processes share)"
        if index == 0:
            limits = {"max_requests": max_requests, "max_tokens": max_tokens}
            words = " and ".join(f"{name} {number}" for name, number in limits.items() if number is not None)
            console.print(f"{words}: shared by {processes} processes", soft_wrap=True)
    return Budget(
        max_requests=None if max_requests is None else part_of(max_requests),
        max_tokens=None if max_tokens is None else part_of(max_tokens),
        shared=shared,
    )


def concurrency_of(concurrency: int) -> int:
    """This process's part of the requests at a time, at least one."""
    return max(1, part_of(concurrency))


def part_of(number: int) -> int:
    """This process's part of a number; the parts of a launch add up to it."""
    processes, index = _launch()
    return number // processes + (index < number % processes)


def _launch() -> tuple[int, int]:
    from grkd.ranks import launched  # torch, which a reader of recipes need not load

    return launched()
