"""A micro-batch that goes through the models in several passes, whose gradients add up."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from grkd.training.rows import REPEATED


def in_passes(
    step: Callable[[dict[str, Any]], Tensor],
    parts: Sequence[dict[str, Any]],
    accelerator: Accelerator,
    model: nn.Module,
) -> Tensor:
    """The sum of `step` (forward and backward of a part, which gives its loss) over the parts.

    Every rank makes as many passes as the one with most, repeating its last one for nothing: sharded models wait for
    each other in each. Gradients of DDP are exchanged in the last one alone.
    """
    parts = list(parts)
    if accelerator.num_processes > 1:
        count = torch.tensor([len(parts)], device=accelerator.device)
        most = int(accelerator.gather(count).max())
        parts += [{**parts[-1], REPEATED: True} for _ in range(most - len(parts))]
    exchanged_once = accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    losses = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with nullcontext() if last or not exchanged_once else accelerator.no_sync(model):
            losses.append(step(part))
    return torch.stack(losses).sum()
