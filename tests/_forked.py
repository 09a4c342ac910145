"""A child process that has imported already what the test has: for kills, without the seconds of a new Python."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


class Forked:
    """`call` in a fork of this process, its output in `log`."""

    def __init__(self, call: Callable[[], object], log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.log, self._ended = log, False
        with warnings.catch_warnings():  # of threads in the parent, which only wait for connections
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._child(call)

    def _child(self, call: Callable[[], object]) -> None:
        status = 1
        try:
            written = os.open(self.log, os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(written, stream)
            call()
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def is_running(self) -> bool:
        self._ended = self._ended or os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return not self._ended

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the child and wait for it."""
        if self.is_running():
            os.kill(self.pid, how)
            os.waitpid(self.pid, 0)
            self._ended = True
