"""Batches of examples that stay on the device: a shuffled order, and images cropped and flipped there."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4  # pixels around an image, of which a random crop of the image's own size is taken


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """inputs as a network takes them (float), and what belongs to them."""

    inputs: Tensor
    labels: Int[Tensor, " batch"]
    teacher_scores: Float[Tensor, "batch classes"] | None = None
    teacher_features: Float[Tensor, "batch features"] | None = None


class DeviceExamples(DeviceBatch):
    """A training set on one device.

    inputs: images [examples, channels, height, width] (uint8 in 0..255, or float), or float features
    [examples, width]. labels: of the students. teacher_scores, teacher_features: computed beforehand, for inputs that
    never change; a live teacher is given to the training itself.
    """

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> bool:
        return self.inputs.ndim == 4


class DeviceBatches:
    """Batches of equal size in a new order every epoch; a last, smaller one is left out (others come next time).

    augment: images only; each is shifted by up to 4 pixels (black comes in) and flipped left to right in half of the
    cases. Order, shifts and flips are drawn on the CPU from the seed, an epoch at a time: the same on every device,
    and nothing waits for the device. Raises ValueError for augment on inputs that are no images.
    """

    def __init__(self, examples: DeviceExamples, *, batch_size: int, augment: bool, seed: int) -> None:
        if augment and not examples.images:
            raise ValueError(f"only images can be cropped and flipped, inputs have shape {examples.inputs.shape}")
        self.examples = examples
        self.batch_size = min(batch_size, len(examples))
        self.augment = augment
        self.generator = torch.Generator().manual_seed(seed)
        # Channels last: a gather of pixels then gives the layout in which a GPU's convolutions are fastest.
        self.padded = pad(examples.inputs, [PADDING] * 4).permute(0, 2, 3, 1).contiguous() if augment else None

    @property
    def a_pass(self) -> int:
        """Batches in an epoch."""
        return len(self.examples) // self.batch_size

    def epoch(self) -> Iterator[DeviceBatch]:
        """The batches of one more pass over the examples."""
        examples, device, count = self.examples, self.examples.labels.device, len(self.examples)
        order = torch.randperm(count, generator=self.generator)
        moves = self._moves(count)
        order, moves = order.to(device), moves.to(device)
        for number in range(self.a_pass):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            chosen = order[part]
            yield DeviceBatch(
                inputs=self._inputs(chosen, moves[:, part]),
                labels=examples.labels[chosen],
                teacher_scores=None if examples.teacher_scores is None else examples.teacher_scores[chosen],
                teacher_features=None if examples.teacher_features is None else examples.teacher_features[chosen],
            )

    def _moves(self, count: int) -> Int[Tensor, "3 examples"]:
        """Shift down, shift right, and whether to flip."""
        if not self.augment:
            return torch.zeros(3, count, dtype=torch.long)
        shifts = torch.randint(2 * PADDING + 1, (2, count), generator=self.generator)
        return torch.cat([shifts, torch.randint(2, (1, count), generator=self.generator)])

    def _inputs(self, chosen: Int[Tensor, " batch"], moves: Int[Tensor, "3 batch"]) -> Tensor:
        if self.padded is None:
            return as_float(self.examples.inputs[chosen])
        height, width = self.examples.inputs.shape[-2:]
        down, right, flip = moves.unsqueeze(-1)
        across = torch.arange(width, device=chosen.device)
        columns = right + torch.where(flip.bool(), width - 1 - across, across)
        rows = down + torch.arange(height, device=chosen.device)
        pixels = self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = pixels.permute(0, 3, 1, 2)
        # On a CPU, oneDNN's gradients of few channels in this layout write beyond their memory (PyTorch 2.13).
        return as_float(images if images.is_cuda else images.contiguous())


def as_float(inputs: Tensor) -> Float[Tensor, "batch *shape"]:
    """uint8 pixels as (x / 255 - 0.5) / 0.5, in [-1, 1]; floats as they are."""
    return inputs.float() / 127.5 - 1 if inputs.dtype == torch.uint8 else inputs.float()
