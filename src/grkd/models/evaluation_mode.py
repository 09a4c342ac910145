"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; then, also after an error, the mode that the model was in before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
