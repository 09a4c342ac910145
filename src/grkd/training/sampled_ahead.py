"""Micro-batches of the coming optimiser steps whose responses are sampled already, kept over a kill."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from grkd.files import whole_file


class SampledAhead:
    """A queue that belongs to one pass over the data; a checkpoint in the middle of a generation holds what is left.

    batches: the queue. rank: each rank keeps its own file.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self._of: Iterator[Any] | None = None
        self._checkpoint: Path | None = None

    def resume_from(self, checkpoint: str | None) -> None:
        """Take up what this checkpoint holds when the next training begins."""
        self._checkpoint = None if checkpoint is None else Path(checkpoint)

    def save(self, checkpoint: Path, rank: int) -> None:
        """Write the queue into a checkpoint's folder."""
        if self.batches:
            with whole_file(_file(checkpoint, rank)) as aside:
                torch.save(self.batches, aside)

    def follow(self, iterator: Iterator[Any], rank: int, device: torch.device) -> None:
        """Begin with a new pass over the data: empty, or with what a checkpoint holds."""
        if iterator is self._of:
            return
        self.batches, self._of = [], iterator  # what is left of a training that stopped early is of no use
        path = None if self._checkpoint is None else _file(self._checkpoint, rank)
        self._checkpoint = None
        if path is not None and path.exists():
            # Our own file, which holds groups beside tensors.
            self.batches = torch.load(path, map_location=device, weights_only=False)
            for _ in self.batches:  # they come from the same examples
                next(iterator)

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next batches, which leave the queue."""
        taken, self.batches = self.batches[:count], self.batches[count:]
        return taken


def _file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / f"sampled-{rank}.pt"
