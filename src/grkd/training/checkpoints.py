"""What a checkpoint holds of a model."""

from collections.abc import Iterable

from torch import nn


def without_tied(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The missing names without those of weights that the checkpoint holds under another name (tied weights)."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    left = set(missing)
    for same in names.values():
        if not left.issuperset(same):
            left -= same
    return sorted(left)
