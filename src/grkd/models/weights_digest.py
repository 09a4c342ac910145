"""A digest of a model's weights."""

import torch
from torch import nn

from grkd.files import digest


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the name, shape, sum and mean square of every weight: one pass, no copy of the model."""
    parts = []
    for name, value in model.state_dict().items():
        wide = value if value.dtype == torch.float64 else value.float()  # integers are quantised weights
        parts.append([name, list(value.shape), float(wide.sum()), float(wide.square().mean())])
    return digest(parts)
