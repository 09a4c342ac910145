"""The event loop in which all requests of this process run, in a thread of its own: a caller may have a loop itself."""

import asyncio
import os
from collections.abc import Coroutine
from functools import cache
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def event_loop() -> asyncio.AbstractEventLoop:
    """The running loop; a forked process has one of its own."""
    return _loop_of(os.getpid())


def wait_for(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What the coroutine returns or raises; it is cancelled if the wait for it is interrupted."""
    future = asyncio.run_coroutine_threadsafe(coroutine, event_loop())
    try:
        return future.result()
    finally:
        future.cancel()


@cache
def _loop_of(_process: int) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="grkd requests", daemon=True).start()
    return loop
