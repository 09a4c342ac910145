"""Layers of student and teacher as compiled graphs: whether that pays, the warm-up, and the way back where it fails."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from grkd.console import console
from grkd.data.language import unwrapped
from grkd.errors import UserError
from grkd.ranks import gathered

_WORTH_SECONDS = 600.0  # of training: compiling takes a minute or two and saves about a fifth of a step
FLOPS_PER_SECOND = 4e14  # of a large GPU in such a training


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The blocks that a transformers model is made of, by the class names that it states; none for other models."""
    inner = unwrapped(model)
    names = set(getattr(inner, "_no_split_modules", None) or ())
    return [module for module in inner.modules() if type(module).__name__ in names]


def training_flops(student: nn.Module, teacher: nn.Module | None, *, tokens: float, recompute: bool) -> float:
    """Floating-point operations of a training over so many tokens: 6 (8 with recompute) a student's parameter and
    token, 2 a teacher's."""
    own = sum(parameter.numel() for parameter in student.parameters())
    others = 0 if teacher is None else sum(parameter.numel() for parameter in teacher.parameters())
    return tokens * ((8 if recompute else 6) * own + 2 * others)


def flops_left(
    student: nn.Module,
    teacher: nn.Module | None,
    parts: Sequence[Mapping[str, Any]],
    args: TrainingArguments,
    *,
    steps: int,
) -> float:
    """The same of a training of so many more steps, whose micro-batches are about as large as these parts of one."""
    tokens = sum(part["input_ids"].numel() for part in parts if "input_ids" in part)
    recompute = bool(getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing)
    passes = args.gradient_accumulation_steps * steps
    return training_flops(student, teacher, tokens=float(tokens * passes), recompute=recompute)


class CompiledLayers:
    """Compiles the layers of these models one by one (equal layers share a graph), or leaves them as they are.

    wanted: None decides by `pays`. sharded: the student is FSDP2's, and a pass that fails leaves it half gathered.
    backend: of torch.compile.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        wanted: bool | None,
        device: torch.device,
        sharded: bool = False,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.layers = [layer for model in models for layer in decoder_layers(model)]
        self.wanted, self.device, self.sharded, self.backend = wanted, device, sharded, backend
        self.on = False

    def pays(self, flops: float) -> bool:
        """Whether a training of so many operations is long enough; never on a CPU."""
        return self.device.type == "cuda" and flops / FLOPS_PER_SECOND > _WORTH_SECONDS

    def begin(self, flops: float, warm_up: Callable[[], object]) -> None:
        """Compile, and run `warm_up`, a first pass whose results are thrown away; say both, or why not.

        An error in it that is not about memory or a user's mistake leaves the layers as they were, on all processes.
        Raises UserError instead where the student is sharded.
        """
        if not (self.pays(flops) if self.wanted is None else self.wanted):
            return
        if not self.layers:
            console.print("compile: the layers of these models are not known; they run uncompiled")
            return
        import torch._dynamo

        limits: Any = torch._dynamo.config
        limits.cache_size_limit = max(limits.cache_size_limit, 64)  # student and teacher share their layers' code
        console.print(f"compiling {len(self.layers)} layers; the first step takes a minute or two", soft_wrap=True)
        start = time.perf_counter()
        for layer in self.layers:
            layer.compile(backend=self.backend)
        self.on, reason = True, ""
        try:
            warm_up()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # compilers raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if self.sharded:
                raise UserError(
                    f"compile: compilation failed ({reason}), and a sharded student cannot go on from there; "
                    "set compile to false"
                ) from error
        if reason := next(filter(None, gathered([reason], "whether layers compile")), ""):
            self.off()
            console.print(f"[yellow]compile: compilation failed, so these models run uncompiled ({reason})[/yellow]")
            return
        console.print(f"compiled in {time.perf_counter() - start:.0f} s")

    def off(self) -> None:
        """The layers as they were."""
        self.on = False
        for layer in self.layers:
            layer._compiled_call_impl = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The layers as they were, for inputs of other shapes (sampling, evaluation): each would be compiled again."""
        kept = [layer._compiled_call_impl for layer in self.layers]
        for layer in self.layers:
            layer._compiled_call_impl = None
        try:
            yield
        finally:
            for layer, compiled in zip(self.layers, kept, strict=True):
                layer._compiled_call_impl = compiled
