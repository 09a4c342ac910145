"""Weights in 8-bit floating point for models that are read and not trained: half the memory, faster products."""

from typing import Any

import torch
from torch import Tensor, nn

from grkd.errors import UserError

FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FLOAT8).max  # 448
_MULTIPLE = 16  # of both sides of a weight, for the product's kernel
_CARD = (8, 9)  # compute capability of the first GPUs with such products (Ada, Hopper)


class Float8Linear(nn.Module):
    """A linear layer whose weight and input are rounded to float8 (e4m3), with a scale per row of each.

        s_x = max |x| / 448 per token, s_w = max |w| / 448 per output;  y = s_x s_w (round(x / s_x) round(w / s_w)^T)

    The product is `torch._scaled_mm`, summed in float32; the output has the input's dtype, bfloat16.
    """

    weight: nn.Parameter
    scale: Tensor
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        rounded, scale = _rounded(linear.weight.detach())
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.register_buffer("scale", scale.mT.contiguous())
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        rounded, scale = _rounded(values.reshape(-1, self.in_features))
        product: Tensor = torch._scaled_mm(
            rounded, self.weight.mT, scale_a=scale, scale_b=self.scale, out_dtype=values.dtype, use_fast_accum=True
        )
        product = product.view(*values.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float8 numbers and the scale of each row, float32 [rows, 1]."""
    wide = rows.float()
    scale = (wide.abs().amax(-1, keepdim=True) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    return (wide / scale).to(FLOAT8), scale


def to_float8(model: Any) -> Any:
    """The model with its linear layers in float8, in place; embeddings, norms and the output head stay as they are.

    Layers with a side that is no multiple of 16 stay too. The model must be in bfloat16, and is never trained again.
    """
    head = model.get_output_embeddings()
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            sides = (getattr(module, "in_features", 1), getattr(module, "out_features", 1))
            if type(module) is nn.Linear and module is not head and not any(side % _MULTIPLE for side in sides):
                setattr(parent, name, Float8Linear(module))
    return model


def is_float8(model: nn.Module) -> bool:
    """Whether layers of the model are in float8."""
    return any(isinstance(each, Float8Linear) for each in model.modules())


def check_float8(device: torch.device, key: str) -> None:
    """Raises UserError, which names the recipe's key, if the device has no float8 products."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CARD:
        return
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    raise UserError(
        f"{key}: float8 needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper), which {where} is not; "
        "use bfloat16 or auto"
    )
