"""A student's complete optimiser step as one CUDA graph: no launches, and several students at a time on the GPU.

A small network's step is a hundred kernels of a few microseconds; launched one by one they leave the GPU idle.
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.training.lockstep.batches import DeviceBatch
from grkd.training.lockstep.student import LockstepStudent

_WARM_UP = 3  # steps before the capture: libraries choose their kernels and memory in the first ones


def graphs_run_on(device: torch.device) -> bool:
    return device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class StaticBatch:
    """Where the graphs read: every batch is copied here. `ready`: a CUDA event, recorded once it is complete."""

    batch: DeviceBatch
    ready: Any

    @classmethod
    def like(cls, batch: DeviceBatch) -> "StaticBatch":
        """Room for batches of this shape, holding this one."""
        copies: dict[str, Any] = {name: None if value is None else value.clone() for name, value in vars(batch).items()}
        return cls(batch=DeviceBatch(**copies), ready=torch.cuda.Event())

    def fill(self, batch: DeviceBatch) -> None:
        for name, value in vars(self.batch).items():
            if value is not None:
                value.copy_(getattr(batch, name))
        self.ready.record()


class GraphedStep:
    """One student's step on its own stream. Raises if the step cannot be captured; the student is as it was then."""

    def __init__(self, student: LockstepStudent, static: StaticBatch, weights: Float[Tensor, "steps terms"]) -> None:
        self.static, self.stream = static, torch.cuda.Stream()
        self.done = torch.cuda.Event()
        before, drawn = [value.clone() for value in _state(student)], student.generator.get_state()
        try:
            self.graph = self._captured(student, weights.to(student.device))
        finally:
            torch.cuda.synchronize()
            for value, old in zip(_state(student), before, strict=True):
                value.copy_(old)
            student.generator.set_state(drawn)
            student.stepper.reset()

    def _captured(self, student: LockstepStudent, weights: Tensor) -> Any:
        self.weights = weights  # the graph reads it: it must live as long
        batch, graph = self.static.batch, torch.cuda.CUDAGraph()
        for number in range(_WARM_UP):  # on the common stream: what its memory held serves the next student too
            # An objective that reads a value on the host would break the capture, and leave the GPU in disorder.
            with _refusing_reads() if number == _WARM_UP - 1 else nullcontext():
                student.fixed_step(batch, weights)
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream), _no_collection():
            graph.register_generator_state(student.generator)
            graph.capture_begin()
            try:
                student.fixed_step(batch, weights)
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph

    def launch(self) -> None:
        """The next step, on what the static batch holds."""
        self.stream.wait_event(self.static.ready)
        with torch.cuda.stream(self.stream):
            self.graph.replay()
            self.done.record()

    def wait(self) -> None:
        """What comes next on the current stream waits for the step (the host does not)."""
        torch.cuda.current_stream().wait_event(self.done)


@contextmanager
def _refusing_reads() -> Iterator[None]:
    """Raises RuntimeError if the host waits for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Freeing what belongs to another graph in the middle of a capture would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _state(student: LockstepStudent) -> list[Tensor]:
    """All that a step changes but the optimiser's own tensors and the student's generator."""
    module = student.module
    return [*(p.detach() for p in module.parameters()), *module.buffers(), student.number, student.loss_sum]
