"""Times and memory on a CUDA device, and what a result file says of the machine."""

import datetime
import importlib.metadata
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from grkd.run.jobs import visible_gpus

MIB = 2**20
# About 25 ms.
_WAIT_CYCLES = 45_000_000


def on_one_gpu(number: int) -> dict[str, str]:
    """The environment of a process that is one of several: it sees one GPU, and they take turns."""
    gpus = visible_gpus()
    return {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})}


def interleaved_ms(steps: dict[str, Callable[[], Any]], *, repeats: int = 9, warmup: int = 2) -> dict[str, float]:
    """Median milliseconds of each step on the device; the steps take turns, in random order.

    The device waits a moment before each step while the host queues it, as in training, where the host runs ahead:
    otherwise short steps would measure Python.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(repeats):
        for name, step in order.sample(list(steps.items()), len(steps)):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            torch.cuda._sleep(_WAIT_CYCLES)
            begin.record()
            step()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mib(step: Callable[[], Any]) -> float:
    """Memory that one step allocates at its peak beyond what was held before it."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / MIB


def told(module: str, words: Sequence[str]) -> str:
    """The command that a result file names, without where it was written and the commit, which the file says itself."""
    elsewhere = ("--out", "--commit")
    kept = [
        word for at, word in enumerate(words) if not (word.startswith(elsewhere) or (at and words[at - 1] in elsewhere))
    ]
    return " ".join([f"python -m {module}", *kept])


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """||found - exact|| / ||exact|| in float64, in slices of rows (the whole may not fit twice)."""
    above = below = 0.0
    for start in range(0, len(exact), 16_384):
        part = slice(start, start + 16_384)
        above += float((found[part].double() - exact[part].double()).square().sum())
        below += float(exact[part].double().square().sum())
    return (above / below) ** 0.5


def about(date: str | None, command: str, *, gpu: bool = True) -> dict[str, Any]:
    """Hardware, versions, date and command of a result file."""
    versions = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    for name in ("torch", "transformers", "triton", "liger-kernel", "trl"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "hardware": torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})",
        "versions": versions,
        "date": date or datetime.date.today().isoformat(),
        "command": command,
    }
