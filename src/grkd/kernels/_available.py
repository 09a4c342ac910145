"""Which form runs: Triton if it can, else torch."""

import functools
import importlib.util
import os

from torch import Tensor

from grkd.errors import UserError
from grkd.kernels._options import Implementation


@functools.cache
def has_triton() -> bool:
    """Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Triton's interpreter is on (TRITON_INTERPRET=1): kernels run on the CPU, for tests."""
    return has_triton() and os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(tensor: Tensor, implementation: Implementation) -> bool:
    """True if the Triton form runs on this tensor.

    "auto" takes it for CUDA tensors of at most 32 bits when Triton is installed; "torch" never.
    Raises UserError if "triton" is asked for and cannot run, or for an unknown name.
    """
    if implementation not in ("auto", "torch", "triton"):
        raise UserError(f"unknown implementation {implementation!r}; known: auto, torch, triton")
    possible = has_triton() and tensor.element_size() <= 4 and (tensor.is_cuda or interpreted())
    if implementation == "triton" and not possible:
        raise UserError("implementation 'triton' needs triton installed and CUDA tensors of 32 bits or fewer: use auto")
    return possible and implementation != "torch" and (tensor.is_cuda or implementation == "triton")
