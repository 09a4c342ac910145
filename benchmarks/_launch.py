"""A launch of processes, one at a time on a machine; one that hangs is ended, and its log says where they were."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType

import psutil
from filelock import FileLock

_SHARED_MEMORY = 1 << 30  # bytes of /dev/shm below which NCCL does without: a full one ends processes by SIGBUS
_DYING_SECONDS = 5


class Launch:
    """`python WORDS` with its output in `log`, begun when no other launch of this machine is running.

    Each line of the log begins with the seconds since the launch began. environment: beside this process's own. Leaving
    the block ends what is still running.
    """

    def __init__(self, words: Sequence[str], log: Path, **environment: str) -> None:
        self.words, self.log, self.environment = [sys.executable, *words], log, environment
        self._alone = FileLock(Path(tempfile.gettempdir()) / "grkd-launch.lock")

    def __enter__(self) -> "Launch":
        self._alone.acquire()
        self.log.write_bytes(b"")
        settings = {**os.environ, **usual_environment(), **self.environment}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(self.words, env=settings, **streams)  # type: ignore[call-overload]
        with contextlib.suppress(psutil.Error, AttributeError):  # a dump of a GPU's process takes long; Linux alone
            psutil.Process(self.process.pid).rlimit(psutil.RLIMIT_CORE, (0, 0))
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.end()
        finally:
            self._reader.join(_DYING_SECONDS)
            self._alone.release()

    def _read(self) -> None:
        begun = time.monotonic()
        with self.process.stdout as lines, self.log.open("ab", buffering=0) as log:
            for line in lines:
                log.write(f"{time.monotonic() - begun:5.1f} s  ".encode() + line)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> int:
        """The exit status; -SIGABRT for a launch that was still running after so many seconds."""
        try:
            return int(self.process.wait(seconds))
        except subprocess.TimeoutExpired:
            self.end()
            return -signal.SIGABRT

    def end(self) -> None:
        """End every process that is still running: the ranks one after the other by SIGABRT, on which Python prints
        its stack."""
        if not self.is_running():
            return
        outer = psutil.Process(self.process.pid)
        inner = outer.children(recursive=True)
        ranks = [child for child in outer.children() if _is_rank(child)]
        if ranks:  # else the process itself is the only rank
            _signalled(outer, signal.SIGSTOP)  # it would end the second rank without a word when the first has ended
        for rank in ranks or [outer]:
            _signalled(rank, signal.SIGABRT)
            _wait_for_the_end(rank)
        for process in [*inner, outer]:
            _signalled(process, signal.SIGKILL)
        self.process.wait()

    def printed(self) -> str:
        """The log without the names of hundreds of modules that a crash prints after each stack."""
        self._reader.join(_DYING_SECONDS)
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if "Extension modules:" not in line)


def by_accelerate(processes: int, way: str) -> list[str]:
    """What Python runs to start processes by accelerate's launcher: the student sharded by FSDP2, or copied ("ddp")."""
    sharded = ["--use_fsdp", "--fsdp_version=2", "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP"]
    return ["-m", "accelerate.commands.launch", f"--num_processes={processes}", *(sharded if way == "fsdp" else [])]


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


def _wait_for_the_end(process: psutil.Process) -> None:
    """Until it runs no more; it stays a zombie where its launcher is stopped."""
    until = time.monotonic() + _DYING_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        while time.monotonic() < until and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)


def _is_rank(process: psutil.Process) -> bool:
    """Whether a launcher (torchrun's, accelerate's) has started it as a rank."""
    try:
        return "LOCAL_RANK" in process.environ()
    except psutil.Error:
        return False
