"""Models spread over the GPUs of a launch: frozen ones sharded by FSDP2, and plain copies of sharded students."""

import atexit
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grkd.console import track
from grkd.errors import UserError
from grkd.ranks import gathered, ranks, waiting_for

# What checkpointing of activations puts into the names of parameters.
_CHECKPOINTED = "_checkpoint_wrapped_module."


def is_sharded(model: nn.Module | None) -> bool:
    """Whether FSDP2 spreads the model's weights over processes."""
    return model is not None and any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def shard(
    model: PreTrainedModel,
    device: torch.device,
    *,
    offload: bool = False,
    prepare: Callable[[nn.Module], None] | None = None,
) -> PreTrainedModel:
    """Spread a frozen model's layers over the processes of the launch, in place; each is gathered when it runs.

    Memory per process: (weights of the layers) / (number of processes), one or two whole layers while it runs, and
    embeddings and head, which stay whole: objectives read the head between forward passes.
    offload: the parts wait in the memory of the host, for a teacher that all GPUs together cannot hold.
    prepare: called with each layer just before it is spread, for a model whose layers are still on the meta device.
    Every process must call the model equally often; see in_turns. A single process gets the model as it is, unless it
    is to wait in the host's memory.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    model = model.eval().requires_grad_(False)
    if offload and not torch.distributed.is_initialized():
        _begin_alone(device)
    if not offload and ranks().num_processes == 1:
        if prepare is not None:
            for layer in _layers(model):
                prepare(layer)
        return model.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
    base: Any = model.base_model
    layers = _layers(model)
    sharded = {id(parameter) for layer in layers for parameter in layer.parameters()}
    own = {parameter for parameter in model.parameters() if id(parameter) not in sharded}
    for tensor in (*own, *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)
    shown = offload and ranks().is_main_process  # pinning tens of GiB takes a minute
    for layer in track(layers, "teacher's layers to the host's memory", unit="layer") if shown else layers:
        if prepare is not None:
            prepare(layer)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    # The root orders the gathering of its layers; hooks on it run for model(...) and for model.base_model(...).
    fully_shard(base, mesh=mesh, ignored_params=own)
    return model


def _begin_alone(device: torch.device) -> None:
    """A process group of this process alone, which FSDP2 asks for; it ends with the process."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.distributed.init_process_group(
        store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
        device_id=device if device.type == "cuda" else None,
    )
    atexit.register(lambda: torch.distributed.destroy_process_group() if torch.distributed.is_initialized() else None)


@contextmanager
def in_turns(*models: nn.Module | None) -> Iterator[None]:
    """Let processes call sharded models a different number of times, in any order: who is done goes on with the others.

    Before each call the processes agree on whose turn it is: the first model that any of them asks for. One that asks
    for another, or has left the block, runs one token beside the others. Models that are not sharded are left alone.
    """
    roots = list(dict.fromkeys(root for model in models for root in _roots(model)))
    if not roots:
        yield
        return
    device = next(buffer.device for root in roots for buffer in (*root.parameters(), *root.buffers()))
    filling = False

    def turn(asked: int | None) -> int | None:
        """Whose turn it is; None when no process asks any more."""
        flags = torch.zeros(len(roots), device=device)
        if asked is not None:
            flags[asked] = 1
        torch.distributed.all_reduce(flags)
        return next((number for number, flag in enumerate(flags.tolist()) if flag > 0), None)

    @torch.no_grad()
    def fill(number: int) -> None:
        nonlocal filling
        filling = True
        roots[number](input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
        filling = False

    def wait_for_turn(number: int) -> None:
        while not filling and (now := turn(number)) != number:
            assert now is not None
            fill(now)

    handles = [
        root.register_forward_pre_hook(lambda *_, number=number: wait_for_turn(number), prepend=True)
        for number, root in enumerate(roots)
    ]
    try:
        yield
        with waiting_for("the sharded teacher's other answers"):
            while (now := turn(None)) is not None:
                fill(now)
    finally:
        for handle in handles:
            handle.remove()


def _roots(model: nn.Module | None) -> list[nn.Module]:
    """The outermost modules that FSDP2 shards: calls of them, or through them, gather weights from all processes."""
    if model is None or not is_sharded(model):
        return []
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        return [model]
    return [root for child in model.children() for root in _roots(child)]


def check_same_weights(model: nn.Module | None, role: str) -> None:
    """Raises UserError if processes of the launch hold different weights of a model that each of them has whole."""
    if model is None or is_sharded(model) or ranks().num_processes == 1:
        return
    seen = hashlib.sha256()
    for parameter in model.parameters():
        seen.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    if len(set(gathered([seen.hexdigest()], f"weights of the {role}"))) > 1:
        raise UserError(
            f"the {role}'s weights differ between processes: accelerate had only the first load them; give its name in "
            "place of the model, or set fsdp_cpu_ram_efficient_loading to false"
        )


class PlainCopy:
    """A copy of a student for sampling, whole on every process, refreshed from the sharded student.

    Made before the student is sharded; weights of `dtype` are allocated at the first refresh, and stay where they are,
    so that a recorded decode step can read them.
    """

    def __init__(self, student: nn.Module) -> None:
        meta = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            for parameter in student.parameters()
        }
        self.model: nn.Module = copy.deepcopy(student, memo=dict(meta)).eval()
        self._places: dict[str, Tensor] = {}

    @torch.no_grad()
    def refreshed(self, student: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """The copy with the student's weights as they are now. Every process must call it."""
        weights = {name.replace(_CHECKPOINTED, ""): each for name, each in student.named_parameters()}
        if not self._places:
            self._allocate(weights, dtype)
        for name, place in self._places.items():
            weight: Any = weights[name]
            place.copy_(weight.full_tensor() if hasattr(weight, "full_tensor") else weight)
        return self.model

    def holding(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Another copy, with these weights, such as those that all processes gave to the main one."""
        made = PlainCopy(self.model).model
        _fill(made, lambda name, old: nn.Parameter(state[name], requires_grad=True))
        return made

    def _allocate(self, weights: dict[str, Any], dtype: torch.dtype | None) -> None:
        device = next(iter(weights.values())).device

        def place(name: str, old: nn.Parameter) -> nn.Parameter:
            self._places[name] = torch.empty(old.shape, dtype=dtype or old.dtype, device=device)
            return nn.Parameter(self._places[name], requires_grad=False)

        _fill(self.model, place)
        for buffer in self.model.buffers():
            buffer.data = buffer.data.to(device)


def _fill(model: nn.Module, made: Callable[[str, nn.Parameter], nn.Parameter]) -> None:
    """Give every parameter its place in memory, those that modules share one place."""
    known: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, old in module._parameters.items():
            if old is None:
                continue
            if id(old) not in known:
                known[id(old)] = made(f"{prefix}.{name}" if prefix else name, old)
            module._parameters[name] = known[id(old)]


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that transformers never splits over devices: the decoder's layers."""
    names = set(model._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if found:
        return found
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])
