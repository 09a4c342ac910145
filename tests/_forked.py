"""Child processes that have imported already what the test has, for kills and for ranks: no seconds of a new Python."""

import faulthandler
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState


class Forked:
    """`call` in a fork of this process, its output in `log`."""

    def __init__(self, call: Callable[[], object], log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.log, self._ended, self.status = log, False, 0
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
            faulthandler.enable(written)  # a test that hangs ends its children by SIGABRT
            call()
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def is_running(self) -> bool:
        if not self._ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._ended, self.status = pid != 0, os.waitstatus_to_exitcode(status)
        return not self._ended

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the child and wait for it."""
        if self.is_running():
            os.kill(self.pid, how)
            self.wait()

    def wait(self) -> None:
        """Until the child has ended."""
        if not self._ended:
            _, status = os.waitpid(self.pid, 0)
            self._ended, self.status = True, os.waitstatus_to_exitcode(status)

    def printed(self) -> str:
        """Its output, without the names of hundreds of modules that faulthandler puts after a crash's stack."""
        lines = self.log.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("Extension modules:"))


def on_ranks(call: Callable[[], object], folder: Path, *, ranks: int = 2) -> None:
    """`call` on several gloo ranks, each a fork of this process with the environment that torchrun would set.

    Fails with the last lines of the first rank that fails. What the ranks print is in folder/rank-N.log; if they wait
    for each other until the test's time limit, where each of them was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    children = [
        Forked(partial(_as_rank, call, folder, rank, ranks), folder / f"rank-{rank}.log") for rank in range(ranks)
    ]
    try:
        running = list(children)
        while running:
            running = [child for child in running if child.is_running()]
            for child in children:
                assert child in running or child.status == 0, child.printed()[-4000:]
            time.sleep(0.01)
    except AssertionError:
        raise
    except BaseException:  # the test's time limit
        for child in children:
            if child.is_running():
                os.kill(child.pid, signal.SIGABRT)
        for child in children:
            child.wait()
            stack = child.printed().rpartition("most recent call first")[2]
            print(f"{child.log.name} waited in{stack[:2500]}")
        raise
    finally:
        for child in children:
            child.kill()


def _as_rank(call: Callable[[], object], folder: Path, rank: int, ranks: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    store = torch.distributed.FileStore(str(folder / "rendezvous"), ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    call()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
