"""Whether optimiser steps are large enough to move weights that are stored in 16 bits."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from grkd.console import console

_ADAPTIVE = ("adam", "lion", "lamb")  # optimisers whose steps are about the learning rate in size


@torch.no_grad()
def share_below_resolution(parameters: Iterable[Tensor], step: float) -> float:
    """Share of the 16-bit weights that a step of this size leaves as they are; 0 if there are none.

    w + step rounds to w where step is below half the distance to the next number, |w| 2^-8 for bfloat16 (2^-11 for
    float16) up to a factor of 2: counted are weights with step < |w| eps / 4, eps = 2^-7 (2^-10).
    """
    still = counted = 0
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            still += int((parameter.abs().float() * (torch.finfo(parameter.dtype).eps / 4) > step).sum())
            counted += parameter.numel()
    return still / counted if counted else 0.0


def say_lost_steps(model: nn.Module, args: TrainingArguments) -> None:
    """A warning where most weights are too large, in 16 bits, for steps of an adaptive optimiser at this rate."""
    rate, optimizer = args.learning_rate, str(getattr(args.optim, "value", args.optim))
    if not any(kind in optimizer for kind in _ADAPTIVE):
        return
    share = share_below_resolution((each for each in model.parameters() if each.requires_grad), rate)
    if share > 0.5:
        console.print(
            f"[yellow]learning rate {rate:g}: {share:.0%} of the student's weights are too large for steps of that "
            "size in 16 bits and will not move; set float32_masters, load it in float32 (student.dtype: auto) or raise "
            "the rate[/yellow]",
            soft_wrap=True,
        )
