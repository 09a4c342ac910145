"""Multiply a gradient by the upstream gradient, in place, without asking the GPU what it is."""

from torch import Tensor

from grkd.kernels._available import has_triton


def scale_by(gradient: Tensor, upstream: Tensor) -> None:
    """gradient *= upstream, a 0-d tensor. Nothing is read or written where it is 1, and the host never waits."""
    if gradient.is_cuda and has_triton() and gradient.element_size() <= 4:  # the kernel multiplies in float32
        from grkd.kernels._scaling_triton import scale_by as on_device

        on_device(gradient, upstream)
    elif gradient.is_cuda or upstream.item() != 1:
        gradient.mul_(upstream.to(gradient.dtype))
