"""What students trained in lock-step share on the device: their inputs, the teacher's outputs, and who sees what."""

from collections.abc import Mapping
from functools import cached_property, lru_cache

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from grkd.classify.context import ClassifierContext
from grkd.classify.data import network
from grkd.classify.score import teacher_outputs, trained_teacher
from grkd.training.lockstep.batches import DeviceExamples
from grkd.training.lockstep.loop import predict

_OF_TRAINING = ("inputs", "train", "train_features")


class DeviceData:
    """The students' inputs and the teacher's outputs on the device."""

    def __init__(self, context: ClassifierContext) -> None:
        self.context = context

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """inputs, heldout_inputs; outside_inputs if there are any."""
        return self._on_device(load_file(self.context.run.path / "tensors" / "tensors.safetensors"))

    @cached_property
    def with_copies(self) -> dict[str, Tensor]:
        """Training examples followed by their copies: inputs, and the teacher's "train" and "train_features".

        Copy c of example n stands at (c + 1) * examples + n. A live teacher has no outputs here.
        """
        outputs = {} if self.context.live else self._on_device(teacher_outputs(self.context))
        found = {"inputs": self.tensors["inputs"], **outputs}
        if self.context.recipe.data.copies:
            copies = self._on_device(load_file(self.context.run.path / "copies" / "copies.safetensors"))
            found = {name: torch.cat([found[name], value]) for name, value in copies.items()}
        return found

    @cached_property
    def live_teacher(self) -> nn.Module | None:
        """The trained teacher, if it scores every batch."""
        return trained_teacher(self.context).module if self.context.live else None

    def examples(self, kept: Tensor | None = None) -> DeviceExamples:
        """Training examples, or those at the positions given, with their copies and the teacher's outputs."""
        labels, times = self.context.labels["labels"].to(self.context.device), 1 + self.context.recipe.data.copies
        if kept is None:
            rows: Tensor | slice = slice(None)
        else:  # copies of what is held back are held back, too
            rows = torch.cat([kept.to(self.context.device) + copy * len(labels) for copy in range(times)])
        found = {name: values[rows] for name, values in self.with_copies.items() if name in _OF_TRAINING}
        return DeviceExamples(
            inputs=found["inputs"],
            labels=labels.repeat(times)[rows],
            teacher_scores=found.get("train"),
            teacher_features=found.get("train_features"),
        )

    def student(self, seed: int) -> nn.Module:
        """A student before training."""
        shape = tuple(self.tensors["inputs"].shape[1:])
        classes = len(self.context.class_names)
        return network(self.context.recipe.student, shape, classes=classes, seed=seed)

    def heldout_logits(self, module: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Of the held-out examples, and of the inputs of no class if there are any."""
        outside = self.tensors.get("outside_inputs")
        logits = predict(module, self.tensors["heldout_inputs"], bf16=self.context.bf16)
        return logits, None if outside is None else predict(module, outside, bf16=self.context.bf16)

    def validation_logits(self, module: nn.Module) -> Tensor:
        """Of the examples that the search validates on."""
        rows = self.context.search_rows[1].to(self.context.device)
        return predict(module, self.tensors["inputs"][rows], bf16=self.context.bf16)

    def _on_device(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.context.device) for name, value in found.items()}


@lru_cache(maxsize=1)
def device_data(context: ClassifierContext) -> DeviceData:
    """The context's data on the device; those of the last one are kept."""
    return DeviceData(context)
