"""Where the time of a training step goes on a GPU, by kinds of kernels, and which lines make the host wait for it."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

PROFILED = 3  # steps behind the measured ones: two that are profiled, and one that is watched for waiting

# The first pattern that a kernel's name has in it says what it is.
_KINDS = {
    "attention": "flash|fmha|sdpa|flex_attention|triton_tem",
    "products": "gemm|nvjet|cutlass|xmma|cublas|splitk|s16816",
    "optimizer": "adam",
    "clipping": "multi_tensor_apply|lpnorm",
    "layers, elementwise": "^triton_",
    "copies": "memcpy|memset|copy_kernel|catarray",
    "head": "^_[a-z]|^row_kernel|^block_kernel",
}
# Ranges that PyTorch draws over kernels.
_RANGES = ("Optimizer.", "ProfilerStep", "## Call", "Torch-Compiled")


@dataclass(frozen=True)
class Span:
    """A kernel or copy: name, begin and end in microseconds."""

    name: str
    begin: float
    end: float


def kind_of(name: str) -> str:
    """The kind of a kernel by its name; "other" for one that no pattern knows."""
    lower = name.lower()
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, lower)), "other")


def shares(spans: Iterable[Span], *, steps: int) -> dict[str, float]:
    """Milliseconds a step of every kind, largest first; idle: from the first kernel to the last, none at work.

    What runs beside something else counts where it goes on alone, so that all add up to the time from begin to end.
    """
    found: dict[str, float] = defaultdict(float)
    ordered = sorted(spans, key=lambda span: span.begin)
    until = ordered[0].begin if ordered else 0.0
    for span in ordered:
        found["idle"] += max(0.0, span.begin - until)
        found[kind_of(span.name)] += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    by_size = sorted(found.items(), key=lambda item: -item[1])
    return {kind: round(microseconds / 1000 / steps, 2) for kind, microseconds in by_size}


class Watch(TrainerCallback):
    """Looks at the last PROFILED steps of a training on a GPU. where: `shares` of a step; waits: lines, how often."""

    def __init__(self, steps: int) -> None:
        self.first = steps - PROFILED
        self.where: dict[str, float] = {}
        self.waits: dict[str, int] = {}
        self._profile: Any = None
        self._caught: Any = None
        self._warnings: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = state.global_step - self.first
        if done == 0:
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            torch.cuda.synchronize()
            self._profile.start()
        elif done == PROFILED - 1:
            torch.cuda.synchronize()
            self._profile.stop()
            self.where = shares(_spans(self._profile), steps=PROFILED - 1)
            self._caught = warnings.catch_warnings(record=True)
            self._warnings = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif done == PROFILED:
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            self.waits = counted(self._warnings)


def counted(found: Iterable[Any]) -> dict[str, int]:
    """How often each line made the host wait, by recorded warnings."""
    lines: dict[str, int] = defaultdict(int)
    for each in found:
        if "synchroniz" in str(each.message):
            lines["/".join(f"{each.filename}:{each.lineno}".split("/")[-3:])] += 1
    return dict(lines)


def _spans(profile: Any) -> list[Span]:
    on_gpu = torch.autograd.DeviceType.CUDA
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == on_gpu and not event.name.startswith(_RANGES)
    ]
