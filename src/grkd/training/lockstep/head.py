"""The last linear layer of a classifier: computed in full precision, and what it reads kept for losses on features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class WideHead(nn.Linear):
    """A linear layer outside autocast that remembers its last input in `read`.

    Logits rounded to bfloat16 would tie classes that the network tells apart.
    """

    read: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Linear) -> "WideHead":
        """The same weights, not a copy."""
        head = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        head.weight, head.bias = layer.weight, layer.bias
        return head

    def forward(self, input: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows classes"]:
        self.read = input
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.to(self.weight.dtype), self.weight, self.bias)


def with_wide_head(module: nn.Module) -> tuple[nn.Module, WideHead | None]:
    """The module with its last nn.Linear made a WideHead (names and weights stay), and that; None if it has none."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        return module, None
    parent, _, name = names[-1].rpartition(".")
    layer = module.get_submodule(names[-1])
    assert isinstance(layer, nn.Linear)
    head = layer if isinstance(layer, WideHead) else WideHead.of(layer)
    if not names[-1]:
        return head, head
    setattr(module.get_submodule(parent), name, head)
    return module, head
