"""A launch of processes, one at a time on a machine; one that hangs is ended, and its log says where they were."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock

_SHARED_MEMORY = 1 << 30  # bytes of /dev/shm below which NCCL does without: a full one ends processes by SIGBUS
_DYING_SECONDS = 10


class Launch:
    """`python WORDS` with its output in `log`, begun when no other launch of this machine is running.

    environment: beside this process's own. Leaving the block ends what is still running.
    """

    def __init__(self, words: Sequence[str], log: Path, **environment: str) -> None:
        self.words, self.log, self.environment = [sys.executable, *words], log, environment
        self._alone = FileLock(Path(tempfile.gettempdir()) / "grkd-launch.lock")

    def __enter__(self) -> "Launch":
        self._alone.acquire()
        settings = {**os.environ, **usual_environment(), **self.environment}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.words, env=settings, stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.end()
        finally:
            self._alone.release()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> int:
        """The exit status; -SIGABRT for a launch that was still running after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return -signal.SIGABRT

    def end(self) -> None:
        """End every process that is still running, by SIGABRT, on which Python prints its stack."""
        if not self.is_running():
            return
        inner = psutil.Process(self.process.pid).children(recursive=True)
        for process in inner:  # workers first: the launcher would end them without a word
            _signalled(process, signal.SIGABRT)
        psutil.wait_procs(inner, timeout=_DYING_SECONDS)
        for process in [*inner, psutil.Process(self.process.pid)]:
            _signalled(process, signal.SIGKILL)
        self.process.wait()

    def printed(self) -> str:
        """Its output without the names of hundreds of modules that a crash prints after each stack."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("Extension modules:"))


def usual_environment() -> dict[str, str]:
    """Settings of every launch that the caller's environment leaves open."""
    wanted = {
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "4",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    }
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free < _SHARED_MEMORY:
        wanted["NCCL_SHM_DISABLE"] = "1"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _signalled(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
