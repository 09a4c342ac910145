"""DDP or FSDP2 for the trainings of one process, set as `accelerate launch` sets them."""

import os

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

# What `accelerate launch --use_fsdp --fsdp_version 2` sets; the layers are those that transformers never splits.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def use(way: str) -> None:
    """Accelerators made from here on wrap their model by DDP ("ddp") or FSDP2 ("fsdp")."""
    if AcceleratorState._shared_state:
        AcceleratorState._reset_state()
        kind = DistributedType.MULTI_GPU if PartialState().device.type == "cuda" else DistributedType.MULTI_CPU
        alone = PartialState().num_processes == 1
        PartialState._shared_state["distributed_type"] = DistributedType.NO if alone else kind
    for name, value in FSDP.items():
        if way == "fsdp":
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
