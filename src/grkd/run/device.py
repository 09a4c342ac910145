"""Where a run computes: device, dtype, threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from grkd.errors import UserError
from grkd.ranks import by_launcher, on_cpus

_SMALL = 500_000  # parameters


def device(name: str) -> torch.device:
    """The device that a recipe asks for.

    Raises UserError if it asks for a GPU that is not there, or for the CPU in a launch on GPUs.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is requested, but PyTorch finds no GPU; use device=auto or device=cpu")
    if name == "cpu" and by_launcher() and torch.cuda.is_available() and not on_cpus():
        raise UserError("device: cpu in a launch on this machine's GPUs; use device=auto or `accelerate launch --cpu`")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() and not on_cpus() else "cpu"
    return torch.device(name)


def dtype(name: str, where: torch.device) -> torch.dtype:
    """A dtype by name; "auto" is bfloat16 on a GPU and float32 on a CPU (where bfloat16 is often emulated).

    "float8" is that of what stays wider beside such weights (grkd.models.float8).
    """
    if name == "float8":
        return torch.bfloat16
    if name == "auto":
        return torch.bfloat16 if where.type == "cuda" else torch.float32
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


@contextmanager
def fitting_threads(module: nn.Module, where: torch.device) -> Iterator[None]:
    """One thread for a small module on a CPU: its products are over before a second thread has begun.

    Where other processes keep the cores busy, waiting for the second thread costs far more than it brings.
    """
    before = torch.get_num_threads()
    small = where.type == "cpu" and sum(parameter.numel() for parameter in module.parameters()) < _SMALL
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
