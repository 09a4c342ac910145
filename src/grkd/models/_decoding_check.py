"""How far a decode step's logits are from the model's own, in the same precision."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

# Of the logits' size. In bfloat16 a right step is .02 to .03 away on SmolLM2-135M and .05 on 28 layers of random
# weights; on SmolLM2-135M a rotation by one place too many is .11 to .19 away, another activation .4.
_TOLERANCE_16_BITS = 0.1
_TOLERANCE = 1e-3


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative_difference of a right step that computes in dtype."""
    return _TOLERANCE_16_BITS if dtype.itemsize == 2 else _TOLERANCE


@torch.no_grad()
def relative_difference(
    ours: Float[Tensor, "prompts vocabulary"],
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    dtype: torch.dtype,
    softcap: float | None = None,
) -> float:
    """||ours - z|| / ||z|| over all prompts, z the model's logits after each; without the mean of each prompt's row.

    What is added to a whole row moves no softmax. ours: before the soft cap. dtype: of the computation; where the
    weights are of another, the model runs under autocast to dtype.
    """
    apart = size = 0.0
    # accelerate wraps `forward` in an autocast of its own, which is not ours to compare with.
    forward: Any = getattr(model, "_original_forward", model)
    # Without autocast's cache: an autocast around us keeps its casts of the weights until its end, and the weights may
    # have changed since.
    with torch.autocast(model.device.type, dtype=dtype, enabled=model.dtype != dtype, cache_enabled=False):
        for row, prompt in zip(ours.float(), prompts, strict=True):
            ids = torch.tensor([prompt], device=model.device)
            own = forward(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
            found = row if softcap is None else softcap * torch.tanh(row / softcap)
            apart += _spread(found - own)
            size += _spread(own)
    return (apart / size) ** 0.5 if size else apart


def _spread(values: Tensor) -> float:
    return float((values - values.mean()).double().square().sum())
