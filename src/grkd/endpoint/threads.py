"""Calls in threads: their results as they come, and a bound on the time of one."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Thread
from types import TracebackType
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What the call returns or raises; TimeoutError after so many seconds, whatever it is waiting for.

    An HTTP client bounds each read: a server that sends a byte now and then keeps it for ever. The call then goes on in
    a thread that no one waits for.
    """
    answered: Future[Result] = Future()

    def run() -> None:
        try:
            answered.set_result(call())
        except BaseException as error:
            answered.set_exception(error)

    Thread(target=run, daemon=True).start()
    return answered.result(timeout=seconds)


class Calls(Generic[Result]):
    """`with Calls(calls, concurrency=4) as running: for key, done in running: done.result()`.

    Leaving the block waits for the calls that have begun; those that have not never begin.
    """

    def __init__(self, calls: Mapping[Any, Callable[[], Result]], *, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency)
        self._waiting: dict[Future[Result], Any] = {self._pool.submit(call): key for key, call in calls.items()}

    def __enter__(self) -> "Calls[Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Any, Future[Result]]]:
        while self._waiting:
            for done in wait(self._waiting, return_when=FIRST_COMPLETED).done:
                key = self._waiting.pop(done, None)
                if key is not None:
                    yield key, done

    def drop(self) -> None:
        """Let no further call begin. (wait() would never see a cancelled one end, so they leave the list here.)"""
        for future in list(self._waiting):
            if future.cancel():
                del self._waiting[future]
