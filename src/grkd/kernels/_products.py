"""Matrix products of the head: bf16 in, float32 sums where the weight's gradient is gathered over chunks."""

import torch
from torch import Tensor


def add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total = left @ right (first) or total += left @ right, summed in total's dtype.

    On CUDA a float32 total of bf16 factors is one product with float32 output: the sum is never rounded to bf16.
    """
    if total.dtype == left.dtype:
        if first:
            torch.mm(left, right, out=total)
        else:
            total.addmm_(left, right)
    elif total.is_cuda:
        if first:
            torch.mm(left, right, out_dtype=total.dtype, out=total)
        else:
            torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        product = left.to(total.dtype) @ right.to(total.dtype)
        if first:
            total.copy_(product)
        else:
            total.add_(product)


def sum_dtype(dtype: torch.dtype, *, accumulate: str) -> torch.dtype:
    """dtype in which the weight's gradient is summed over chunks."""
    return dtype if accumulate == "weight" or dtype == torch.float64 else torch.float32


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, in float32 for 16-bit factors: nothing is rounded to 16 bits."""
    if left.element_size() >= 4:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
