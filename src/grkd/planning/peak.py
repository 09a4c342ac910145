"""The most memory that a piece of work takes: of the GPU's allocator, or of the process on a CPU."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_from_now(where: torch.device) -> Callable[[], int]:
    """A function that gives the peak in bytes since this call.

    On a GPU: what PyTorch allocated. On a CPU: what of the process lay in memory; if the system does not count it anew,
    since the process began.
    """
    if where.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    try:
        _RESET.write_text("5", encoding="ascii")  # Linux: VmHWM begins again
    except OSError:
        return _since_the_start
    return _resident


def _resident() -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
    return 1024 * int(lines["VmHWM"].split()[0])


def _since_the_start() -> int:
    """0 if the system keeps no count."""
    try:
        import resource
    except ImportError:
        return 0
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else 1024 * taken
