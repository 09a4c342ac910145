"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module | None) -> Iterator[None]:
    """Evaluation mode inside the block; then, also after an error, the mode that each part of the models was in."""
    training = [part for model in models if model is not None for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
