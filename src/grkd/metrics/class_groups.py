"""Accuracy inside groups of look-alike classes."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.errors import UserError


@torch.no_grad()
def group_accuracy(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], *, class_groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Tensor]]:
    """Accuracy inside groups of look-alike classes (breeds of dog, say): for each group, values of its examples.

    For a group C, over the rows whose label is in C, each [rows of C], 0 or 1, float64:
    accuracy: the highest class of all is the label; within_group_accuracy: the highest class of C is the label (can the
    model tell them apart, whatever else it is mistaken about?).
    Raises UserError for a group of fewer than two classes or with a class that does not exist.
    """
    found = {}
    for name, classes in class_groups.items():
        chosen = torch.tensor(sorted(set(classes)), device=logits.device)
        if len(chosen) < 2 or chosen[0] < 0 or chosen[-1] >= logits.shape[-1]:
            raise UserError(
                f"class group {name!r}: needs two or more of the classes 0 to {logits.shape[-1] - 1}, got {[*classes]}"
            )
        inside = torch.isin(labels, chosen)
        rows, wanted = logits[inside], labels[inside]
        found[name] = {
            "accuracy": (rows.argmax(-1) == wanted).double(),
            "within_group_accuracy": (chosen[rows[:, chosen].argmax(-1)] == wanted).double(),
        }
    return found
