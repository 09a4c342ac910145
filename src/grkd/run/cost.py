"""What a model costs to use: its size by its files' headers, its pace and the GPU's peak by a piece of work."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open

from grkd.recipe import to_plain

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: not trained
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}

_SHORT = 1.0  # seconds of work that is done again, since its first time is mostly first uses

Found = TypeVar("Found")


def measured(work: Callable[[], Found], where: torch.device) -> tuple[Found, float, int | None]:
    """What `work` gives, its seconds (of a second time, if the first was short), and a GPU's peak in bytes, or None.

    work: waits for the device itself, as what hands tensors to the CPU does.
    """
    begin_peak(where)
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - begin
        if seconds >= _SHORT:
            break
    return found, seconds, peak_bytes(where)


def begin_peak(where: torch.device) -> None:
    """GPU memory that was taken before no longer counts into the peak."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def peak_bytes(where: torch.device) -> int | None:
    """The most that was allocated on the GPU since begin_peak; None on a CPU."""
    return torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None


def pace_of(examples: int, seconds: float, peak: int | None, *, batch_size: int) -> dict[str, Any]:
    """examples_per_second, batch_size and peak_bytes."""
    return {"examples_per_second": examples / seconds, "batch_size": min(batch_size, examples), "peak_bytes": peak}


def without_prices(evaluation: Any) -> dict[str, Any]:
    """An evaluation's settings as a stage's input: another price measures nothing again."""
    return {name: value for name, value in to_plain(evaluation).items() if "price" not in name}


def stored_cost(folder: Path) -> dict[str, Any]:
    """parameters and weight_bytes of a folder's safetensors files; empty if there are none."""
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                one = stored.get_slice(name)
                count = math.prod(one.get_shape())
                parameters += 0 if name.endswith(_BUFFERS) else count
                size += count * _BYTES.get(one.get_dtype(), 1)
    return {"parameters": parameters, "weight_bytes": size} if parameters else {}
