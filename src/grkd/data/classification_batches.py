"""From labelled examples to batches: one batch has inputs, labels, the teacher's scores and where they come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from grkd.errors import UserError

Inputs = Tensor | dict[str, Tensor]
Prepare = Callable[[Sequence[Any]], Inputs]


class ClassificationDataset(Dataset[dict[str, Any]]):
    """Examples as dicts: student_inputs, labels, index, and teacher_scores if they are given.

    Raises ValueError for parts of different lengths.
    """

    def __init__(
        self,
        inputs: Tensor | Sequence[Any],
        labels: Int[Tensor, " examples"],
        *,
        teacher_scores: Float[Tensor, "scored classes"] | None = None,
    ) -> None:
        lengths = [len(inputs), len(labels), *([] if teacher_scores is None else [len(teacher_scores)])]
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs, labels and teacher scores have different lengths: {lengths}")
        self.inputs = inputs
        self.labels = labels
        self.teacher_scores = teacher_scores

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = {"student_inputs": self.inputs[index], "labels": self.labels[index], "index": index}
        if self.teacher_scores is not None:
            example["teacher_scores"] = self.teacher_scores[index]
        return example


@dataclass(frozen=True, kw_only=True)
class Collate:
    """Examples of ClassificationDataset as one batch of tensors; `prepare` makes the inputs that the model takes.

    student_inputs: a tensor or a dict of tensors; labels: [batch]; index: [batch]; teacher_scores: [batch, classes].
    """

    prepare: Prepare

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "student_inputs": self.prepare([example["student_inputs"] for example in examples]),
            "labels": torch.stack([example["labels"] for example in examples]),
            "index": torch.tensor([example["index"] for example in examples]),
        }
        if "teacher_scores" in examples[0]:
            batch["teacher_scores"] = torch.stack([example["teacher_scores"] for example in examples])
        return batch


def moved(inputs: Any, device: torch.device | str) -> Any:
    """Tensors, by themselves or in mappings, on the device."""
    if isinstance(inputs, dict):
        return {name: moved(value, device) for name, value in inputs.items()}
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs


def stack_inputs(examples: Sequence[Tensor]) -> Float[Tensor, "batch *shape"]:
    """Features or images as one float tensor; uint8 pixels become (x / 255 - 0.5) / 0.5, in [-1, 1]."""
    stacked = torch.stack(list(examples))
    return stacked.float() / 127.5 - 1 if stacked.dtype == torch.uint8 else stacked.float()


@dataclass(frozen=True, kw_only=True)
class PadTokens:
    """Token ids padded on the right to the longest text of the batch; the attention mask comes from the lengths.

    The padding is never recognised by its id: it may be the id of a real token.
    """

    pad_id: int

    def __call__(self, texts: Sequence[Sequence[int]]) -> dict[str, Int[Tensor, "batch tokens"]]:
        lengths = torch.tensor([len(text) for text in texts])
        longest = int(lengths.max())
        ids = torch.tensor([[*text, *[self.pad_id] * (longest - len(text))] for text in texts])
        return {"input_ids": ids, "attention_mask": (torch.arange(longest) < lengths.unsqueeze(-1)).long()}


@dataclass(frozen=True, kw_only=True)
class ProcessImages:
    """Images as a transformers image processor makes them (its size, mean and deviation)."""

    processor: Any

    def __call__(self, images: Sequence[Tensor]) -> dict[str, Float[Tensor, "batch channels height width"]]:
        # A processor scales by 1/255 itself, so pixels in [0, 1] are put back on 0..255; grey becomes RGB.
        pixels = [image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8) for image in images]
        pixels = [image.expand(3, -1, -1) if image.shape[0] == 1 else image for image in pixels]
        processed = self.processor(images=pixels, return_tensors="pt", input_data_format="channels_first")
        return {"pixel_values": processed["pixel_values"]}


def tokenise(texts: Sequence[str], tokenizer: Any, *, max_tokens: int) -> list[list[int]]:
    """Token ids of each text with the tokenizer's special tokens, cut to max_tokens or to the model's own limit.

    Raises UserError for a text that has no tokens.
    """
    limit = min(max_tokens, int(tokenizer.model_max_length))
    encoded: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    for text, ids in zip(texts, encoded, strict=True):
        if not ids:
            raise UserError(f"the tokenizer of {tokenizer.name_or_path} makes no tokens of {text[:40]!r}; remove it")
    return encoded
