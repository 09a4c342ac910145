"""DDP or FSDP2 for the trainings of a process, as benchmarks._ways; FSDP2 on CPUs too."""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from benchmarks import _ways

_init = AcceleratorState.__init__


def use(way: str) -> None:
    """Accelerators that are made from here on wrap their model by DDP ("ddp") or FSDP2 ("fsdp")."""
    _ways.use(way)
    AcceleratorState.__init__ = _on_cpus_too


def _on_cpus_too(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    """accelerate shards on accelerators alone; the tests want it on CPUs."""
    _init(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type
