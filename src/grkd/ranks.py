"""The processes of one launch: who waits for whom, what all get from the first, which of them reports an error.

A launch is `accelerate launch` or torchrun; a process alone is a launch of one.
"""

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from grkd.console import LINE_EVERY_SECONDS
from grkd.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

Value = TypeVar("Value")

# A process may wait for another one that evaluates or prepares; the libraries' own limit is 10 minutes.
PATIENCE = datetime.timedelta(hours=24)


def ranks() -> "PartialState":
    """The state of this launch: num_processes, process_index, is_main_process."""
    from accelerate import PartialState  # here, since it takes seconds

    # By itself accelerate sees processes on CPUs only if it is told so.
    state = PartialState(cpu=on_cpus() or not torch.cuda.is_available(), timeout=PATIENCE)
    if state.device.type == "cpu" and state.device.index is not None:
        state.device = torch.device("cpu")  # torch up to 2.11 loads no checkpoint onto "cpu:0"
    return state


def on_cpus() -> bool:
    """Whether `accelerate launch` was told to leave GPUs alone (--cpu)."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"


def uses_fsdp() -> bool:
    """Whether `accelerate launch` was told to shard models (--use_fsdp)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def do_not_shard() -> None:
    """Have the students of this launch copied to every process (DDP), although it was told to shard models."""
    os.environ.pop("ACCELERATE_USE_FSDP", None)


def launched() -> tuple[int, int]:
    """Processes of this launch and the number of this one, by the launcher's word: accelerate is not imported."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


def by_launcher() -> bool:
    """Whether a launcher has started this process, alone or as one of several: it has a process group."""
    return "LOCAL_RANK" in os.environ


def are_several() -> bool:
    """Whether this process is one of several of a launch."""
    return launched()[0] > 1


def first_process() -> bool:
    """Whether this process is the first of its launch."""
    return launched()[1] == 0


class MetByAllError(RuntimeError):
    """An error that every process of the launch raises: all of them can go on with the next job."""


def others_wait(error: Exception) -> bool:
    """Whether other processes still wait for this one in what the error has ended, so that it cannot go on alone.

    A loss or gradient that is no number (FloatingPointError) is the same on all of them.
    """
    return are_several() and not isinstance(error, MetByAllError | FloatingPointError)


def is_past(deadline: float | None) -> bool:
    """Whether the first process finds it later than this time, in seconds of time.time(): one answer for all."""
    return deadline is not None and from_main(lambda: time.time() > deadline)


def wait(reason: str, *, every_seconds: float = LINE_EVERY_SECONDS) -> None:
    """Wait for every process of the launch; says so if it takes longer than `every_seconds`."""
    with waiting_for(reason, every_seconds=every_seconds):
        ranks().wait_for_everyone()


def from_main(made: Callable[[], Value], reason: str = "") -> Value:
    """What `made` gives on the main process, on every process. A UserError there is raised on every process."""
    if ranks().num_processes == 1:
        return made()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None, None]
    if ranks().is_main_process:
        try:
            found[0] = made()
        except UserError as error:
            found[1] = str(error)
    with waiting_for(reason or "the first process"):
        value, mistake = broadcast_object_list(found)
    if mistake is not None:
        raise UserError(mistake)
    return cast(Value, value)


def gathered(values: list[Value], reason: str) -> list[Value]:
    """The values of all processes, those of process 0 first, on every process."""
    if ranks().num_processes == 1:
        return values
    from accelerate.utils import gather_object

    with waiting_for(reason):
        return list(gather_object(values))


def first_to_report() -> bool:
    """Whether this process is the first of its launch to report its end, so that one error gives one line.

    The others fail a moment later, since their partner is gone, or are ended by the launcher.
    """
    if not are_several():
        return True
    try:
        return int(_store().add(f"grkd/reported/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1)) == 1
    except Exception:  # no store: then rather twice than never
        return True


def _store() -> Any:
    """The launch's store: that of the process group, or the launcher's before there is one."""
    if torch.distributed.is_initialized():
        return torch.distributed.distributed_c10d._get_default_store()
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=5),
    )


@contextmanager
def waiting_for(reason: str, *, every_seconds: float = LINE_EVERY_SECONDS) -> Iterator[None]:
    """A line on standard error after `every_seconds`, and every ten times as long, while the block runs: it holds a
    collective operation in which other processes may come late."""
    if ranks().num_processes == 1:
        yield
        return
    ended = Event()

    def say() -> None:
        pause = every_seconds
        while not ended.wait(pause):
            line = f"process {ranks().process_index}: waiting for the other processes ({reason})"
            print(line, file=sys.stderr, flush=True)
            pause = 10 * every_seconds

    thread = Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
