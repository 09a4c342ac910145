"""The in-place scaling as a kernel: it returns at once if the factor is 1, which is the common case."""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit
@no_type_check
def _scale(values, factor, size, BLOCK: tl.constexpr):
    scale = tl.load(factor).to(tl.float32)
    if scale != 1.0:
        program, programs = tl.program_id(0), tl.num_programs(0)
        for block in range(program, tl.cdiv(size, BLOCK), programs):
            at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            inside = at < size
            tl.store(values + at, tl.load(values + at, mask=inside).to(tl.float32) * scale, mask=inside)


def scale_by(gradient: Tensor, upstream: Tensor) -> None:
    """gradient *= upstream (0-d, on the same device)."""
    assert gradient.is_contiguous()
    blocks = triton.cdiv(gradient.numel(), _BLOCK)
    _scale[(min(blocks, 2048),)](gradient, upstream, gradient.numel(), BLOCK=_BLOCK, num_warps=8)
