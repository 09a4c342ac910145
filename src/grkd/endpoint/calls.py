"""Several requests of one endpoint at a time, and their results as they come."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from grkd.endpoint.client import Endpoint, RequestFailed
from grkd.endpoint.loop import event_loop

Result = TypeVar("Result")


class Calls(Generic[Result]):
    """`with Calls(endpoint, calls, concurrency=4) as running: for key, done in running: done.result()`.

    Each call makes a coroutine that asks the endpoint; at most `concurrency` are under way. Leaving the block waits for
    them, after an error for one try of each; calls that have not begun never begin. An error that is not of one request
    alone lets none begin from that moment on.
    """

    def __init__(
        self, endpoint: Endpoint, calls: Mapping[Any, Callable[[], Awaitable[Result]]], *, concurrency: int
    ) -> None:
        self._endpoint, self._dropped = endpoint, False
        self._waiting = iter(calls.items())  # of which every worker takes the next
        self._done: SimpleQueue[tuple[Any, Future[Result]] | None] = SimpleQueue()
        work = self._work_all(min(concurrency, len(calls)))
        self._all = asyncio.run_coroutine_threadsafe(work, event_loop())

    def __enter__(self) -> "Calls[Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        if error is not None:
            self._endpoint.connection.stop()
        try:
            self._all.result()
        finally:
            self._all.cancel()  # if this wait is interrupted too
            self._endpoint.connection.resume()

    def __iter__(self) -> Iterator[tuple[Any, Future[Result]]]:
        return iter(self._done.get, None)

    def drop(self) -> None:
        """Let no further call begin."""
        self._dropped = True

    async def _work_all(self, workers: int) -> None:
        try:
            await asyncio.gather(*(self._work() for _ in range(workers)))
        finally:
            self._done.put(None)

    async def _work(self) -> None:
        for key, call in self._waiting:
            if self._dropped:
                return
            done: Future[Result] = Future()
            try:
                done.set_result(await call())
            except Exception as error:
                self._dropped |= not isinstance(error, RequestFailed)
                done.set_exception(error)
            self._done.put((key, done))
