"""Whether a model may read packed rows: its logits for one are compared with those of its sequences alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from grkd.data.language import Item, collate, response_logits, unwrapped
from grkd.data.packed import pack, packed_logits
from grkd.errors import UserError
from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.float8 import is_float8


@torch.no_grad()
def check_packing(model: nn.Module, *, vocabulary: int, device: torch.device) -> None:
    """Raises UserError if a model's logits for a packed row are not those of its sequences one by one.

    Models with a state over the row (convolutions, recurrences) or an attention of their own mix the sequences. Two of
    them share a prompt where the model's attention can.
    """
    items = [
        Item(
            str(number), [(7 * at + number) % vocabulary for at in range(prompt)], [at % vocabulary for at in range(3)]
        )
        for number, prompt in enumerate((5, 2))
    ]
    items.insert(1, Item("again", items[0].prompt_ids, [at % vocabulary for at in (4, 2)]))
    compiled = [each for each in model.modules() if each._compiled_call_impl is not None]
    calls = [each._compiled_call_impl for each in compiled]
    for module in compiled:  # these lengths would be compiled for
        module._compiled_call_impl = None
    try:
        batch = pack(items, pad_token_id=0, shared=[False, True, False])
        with evaluation_mode(model):
            with _seen_dtypes(model) as dtypes:
                found = packed_logits(model, send_to_device(batch, device))
            each = [
                response_logits(model, send_to_device(collate([item], pad_token_id=0), device))[0] for item in items
            ]
        alone = torch.cat(each)
    finally:
        for module, call in zip(compiled, calls, strict=True):
            module._compiled_call_impl = call
    coarse = _in_tf32(device) or not dtypes.isdisjoint((torch.bfloat16, torch.float16))
    difference = float((found.float() - alone.float()).abs().max() / alone.float().abs().max().clamp_min(1e-6))
    # Rounding to float8 turns on the last bit of bfloat16.
    if not difference <= (0.3 if is_float8(model) else 0.1 if coarse else 1e-3):
        kind = getattr(getattr(unwrapped(model), "config", None), "model_type", type(model).__name__)
        raise UserError(
            f"training.tokens_per_batch: a {kind} model gives other logits for sequences in one row (off by "
            f"{difference:.2g} of the largest); remove tokens_per_batch; batches are then padded"
        )


def _in_tf32(device: torch.device) -> bool:
    """Whether products of float32 numbers may be rounded to TF32, ten bits behind the leading one."""
    try:
        return device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by PyTorch's new switches and its old ones
        return True


@contextmanager
def _seen_dtypes(model: nn.Module) -> Iterator[set[torch.dtype]]:
    """Dtypes of the model's products: accelerate's autocast is inside of the model, whose outputs are float32."""
    found: set[torch.dtype] = set()

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.add(output.dtype)

    products = [
        each
        for each in model.modules()
        if isinstance(weight := getattr(each, "weight", None), Tensor)
        and weight.dim() == 2
        and not isinstance(each, nn.Embedding)
    ]
    hooks = [each.register_forward_hook(note) for each in products]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
