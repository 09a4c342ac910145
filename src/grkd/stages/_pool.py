"""Jobs of a comparison, one after the other or in several processes that share the device."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from grkd.console import console, progress_bar

Job = TypeVar("Job")

DONE = "done"


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job], object], *, processes: int, description: str
) -> Iterator[tuple[Job, str]]:
    """Every job with its outcome, "done" or "failed: reason", as they end; one that fails leaves the others be.

    processes: above 1, `work` (a function of a module) and the jobs are sent to that many processes, which do one job
    after the other, spread over the GPUs; a process that dies takes its job with it, and those under way beside it.
    """
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _outcome(work, job)
        return
    with progress_bar() as bar:
        task = bar.add_task(description, total=len(jobs), unit="run")
        for job, outcome in _in_processes(jobs, work, min(processes, len(jobs))):
            bar.advance(task)
            yield job, outcome


def _in_processes(jobs: Sequence[Job], work: Callable[[Job], object], processes: int) -> Iterator[tuple[Job, str]]:
    waiting = list(jobs)
    while waiting:
        context = get_context("spawn")
        started = context.Value("i", 0)
        initial = (started, visible_gpus())
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=initial)
        running: dict[Future[str], Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    running[pool.submit(_outcome, work, job)] = job
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    found = future.result()  # raises where a process died: the job stays among the running
                    yield running.pop(future), found
        except BrokenProcessPool:
            # Which of the jobs killed its process is not known; each of them is given up, the rest goes on.
            for future, job in running.items():
                yield job, future.result() if _whole(future) else "failed: its process died (out of memory?)"
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _whole(future: Future[str]) -> bool:
    return future.done() and future.exception() is None


def _outcome(work: Callable[[Job], object], job: Job) -> str:
    try:
        work(job)
    except Exception as error:
        if not console.quiet:
            traceback.print_exc()
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return DONE


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return named.split(",")[:count]


def _begin(started: Any, gpus: list[str]) -> None:
    """A process among several takes its turn of the GPUs, shows nothing, and leaves the cores to the others."""
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
