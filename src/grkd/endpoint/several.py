"""Several requests of one endpoint at a time: a bar, an end to those of a server that is down, and the budget's end."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grkd.console import progress_bar
from grkd.endpoint.calls import Calls
from grkd.endpoint.client import BudgetReached, Endpoint, RequestFailed
from grkd.errors import UserError

_GIVE_UP_AFTER = 3  # requests in a row without an answer: the endpoint is down, not the request at fault


def fetch(
    endpoint: Endpoint,
    calls: Mapping[str, Callable[[], Awaitable[Any]]],
    *,
    concurrency: int,
    description: str,
    unit: str,
) -> tuple[dict[str, RequestFailed], str | None]:
    """Make calls that ask this endpoint and keep their answers themselves, `concurrency` at a time.

    Returns the failures of requests given up, by key, and why it ended early (None: it did not). However this ends,
    requests on their way come in. Raises UserError for a key, model or URL that cannot work, and after three requests
    in a row without an answer (one, if none was answered before).
    """
    failures: dict[str, RequestFailed] = {}
    stopped: str | None = None
    failed_in_a_row = 0
    with progress_bar() as bar, Calls(endpoint, calls, concurrency=concurrency) as running:
        task = bar.add_task(description, total=len(calls), unit=unit)
        for key, done in running:
            try:
                done.result()
                failed_in_a_row = 0
                bar.advance(task)
            except BudgetReached as reached:
                stopped = str(reached)
                running.drop()
            except RequestFailed as failure:
                failures[key] = failure
                failed_in_a_row += not failure.refused
                if not failure.refused and (failed_in_a_row >= _GIVE_UP_AFTER or not endpoint.answered):
                    raise UserError(
                        f"{endpoint.role}: {endpoint.url} gives no answer: {failure}; answers so far are kept, "
                        "the same command resumes"
                    ) from None
    return failures, stopped
