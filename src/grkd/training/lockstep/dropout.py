"""Dropout that draws from a generator of its own student, so that a CUDA graph can repeat it."""

import torch
from torch import Tensor, nn


class OwnDropout(nn.Module):
    """nn.Dropout whose draws come from `generator`: each entry is 0 with probability p, else divided by 1 - p.

    nn.Dropout draws from the state that everything on the device shares. No parameters: names in a state dict stay.
    """

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        drawn = torch.rand(input.shape, generator=self.generator, device=input.device)
        return torch.where(drawn >= self.p, input / (1 - self.p), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def with_own_dropout(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """The module with every nn.Dropout above 0 drawing from the generator; a bare nn.Dropout is replaced itself."""
    for name, part in list(module.named_children()):
        setattr(module, name, with_own_dropout(part, generator))
    if type(module) is nn.Dropout and module.p > 0:
        own = OwnDropout(module.p, generator)
        return own.train(module.training)
    return module
