"""The size of a model, from the headers of its files alone."""

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: not trained
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}


def stored_cost(folder: Path) -> dict[str, Any]:
    """parameters and weight_bytes of a folder's safetensors files; empty if there are none."""
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                one = stored.get_slice(name)
                count = math.prod(one.get_shape())
                parameters += 0 if name.endswith(_BUFFERS) else count
                size += count * _BYTES.get(one.get_dtype(), 1)
    return {"parameters": parameters, "weight_bytes": size} if parameters else {}
