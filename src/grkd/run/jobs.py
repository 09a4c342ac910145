"""Jobs of a comparison, one after the other or in several processes that share the device."""

import gc
import os
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from grkd.console import console, progress_bar
from grkd.errors import UserError
from grkd.files import full_disk
from grkd.ranks import MetByAllError, others_wait

Job = TypeVar("Job")

DONE = "done"
NOT_YET = "failed: not run yet; repeat the command"


def run_jobs(
    queue: list[Job], work: Callable[[Job], object], *, processes: int, description: str
) -> Generator[tuple[Job, str], None, None]:
    """Run jobs; yield each with its outcome, "done" or "failed: reason", as it ends. A failure stops no other, except
    that a full disk ends them all.

    Of several processes of a launch all take the same jobs, and an error that only one of them may have met is raised.

    queue: jobs are taken from its front. The caller may append to or reorder it between two results. Iteration ends
    when the queue is empty and no job is running.
    processes: number of worker processes, spread over the GPUs. Above 1, `work` must be a function of a module. If a
    worker dies, every job running at that moment is reported as failed; queued jobs continue.
    """
    while queue:
        if processes == 1 or len(queue) < 2:
            job = queue.pop(0)
            yield job, _outcome(work, job)
            continue
        running: dict[Future[str], Job] = {}
        with progress_bar() as bar:
            task = bar.add_task(description, total=len(queue), unit="run")
            for ended, (job, outcome) in enumerate(_in_processes(queue, running, work, processes), start=1):
                yield job, outcome
                bar.update(task, completed=ended, total=ended + len(running) + len(queue))


def _in_processes(
    queue: list[Job], running: dict[Future[str], Job], work: Callable[[Job], object], processes: int
) -> Iterator[tuple[Job, str]]:
    while queue:
        context = get_context("spawn")
        started = context.Value("i", 0)
        initial = (started, visible_gpus())
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=initial)
        try:
            while queue or running:
                while queue and len(running) < processes:
                    future = pool.submit(_outcome, work, queue[0])  # raises where a process has died meanwhile
                    running[future] = queue.pop(0)
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    found = future.result()  # raises where a process died: the job stays among the running
                    yield running.pop(future), found
        except BrokenProcessPool:
            # Which of the jobs killed its process is not known; each of them is given up, the rest goes on.
            for future in list(running):
                outcome = future.result() if _whole(future) else "failed: its process died (out of memory?)"
                yield running.pop(future), outcome
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _whole(future: Future[str]) -> bool:
    return future.done() and future.exception() is None


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(work: Callable[[Job], object], job: Job) -> str:
    try:
        work(job)
    except Exception as error:  # a method of the user's raises anything; the other trainings go on
        if others_wait(error) or full_disk(error):
            raise
        return failure(error)
    finally:
        free_gpu_memory()
    return DONE


def failure(error: Exception) -> str:
    """What became of a training, as results say it. Its traceback is printed, unless the reason says all: a mistake of
    the user's, or a loss or gradient that is no number."""
    if not console.quiet and not isinstance(error, UserError | FloatingPointError):
        traceback.print_exception(error)
    kind = "" if isinstance(error, MetByAllError) else f"{type(error).__name__}: "
    return f"failed: {kind}{' '.join(str(error).split())[:200]}"


def free_gpu_memory() -> None:
    """Give back what this process has left on the GPU: several share it, and PyTorch keeps what it once had."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return named.split(",")[:count]


def _begin(started: Any, gpus: list[str]) -> None:
    """A process among several takes its turn of the GPUs, shows nothing, and leaves the cores to the others.

    It ends with its parent, whose lock keeps others out of the folder: alone it would write beside the next command.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    with started.get_lock():
        number = started.value
        started.value += 1
    console.quiet = True
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if gpus:  # by the environment, before CUDA starts: transformers' Trainer always takes the first GPU that it sees
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
