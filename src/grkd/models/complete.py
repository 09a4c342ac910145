"""Whether a model's files hold every tensor that its config asks for: what they lack would be random."""

import re
from typing import Any

from grkd.console import console
from grkd.errors import UserError

_NAMED = 3  # tensors that a message names
_OF_A_LAYER = re.compile(r"\.(?:layers|h|blocks)\.\d+\.")


def check_complete(name: str, found: dict[str, Any]) -> None:
    """Raises UserError, naming tensors, where the files of model `name` lack some or hold them in another shape.

    found: what from_pretrained gives with output_loading_info. Layers that the files hold and the config leaves out are
    said in a warning.
    """
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"{name}: its files lack {_listed(missing)}, which would be random; complete the files, or give the "
            "config.json that belongs to them (num_hidden_layers, vocab_size)"
        )
    if others := sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]):
        raise UserError(
            f"{name}: its files hold {_listed(others)} in another shape than its config.json says; give the "
            "config.json that belongs to the files"
        )
    if unused := sorted(key for key in found["unexpected_keys"] if _OF_A_LAYER.search(key)):
        console.print(f"[yellow]{name}: its config.json leaves out {_listed(unused)}[/yellow]", soft_wrap=True)


def _listed(tensors: list[str]) -> str:
    shown = ", ".join(name if len(name) <= 60 else f"...{name[-57:]}" for name in tensors[:_NAMED])
    more = f" and {len(tensors) - _NAMED} more" if len(tensors) > _NAMED else ""
    return f"{len(tensors)} tensor{'s' * (len(tensors) > 1)} ({shown}{more})"
