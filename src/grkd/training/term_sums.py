"""What the terms of the loss came to since the last log, over all processes."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from grkd.objectives import Term
from grkd.ranks import gathered


class TermSums:
    """Sums, in nats, and counts of the terms by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # [sum, count]

    def note(self, terms: Sequence[Term], suffix: str) -> None:
        """Add the terms of a batch; suffix: of their names, to tell levels apart."""
        for term in terms:
            self.add(f"{term.name}{suffix}", term.total().detach().float(), term.count().float())

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        both = torch.stack([total, count])
        self._sums[name] = self._sums[name] + both if name in self._sums else both

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """terms/NAME = sum / max(1, count) over all ranks, of every name that any rank has; they start again.

        Every rank must call it. Ranks may hold different names, or none: one whose examples all belong to another place
        of the epoch notes nothing.
        """
        names = list(dict.fromkeys(gathered(list(self._sums), "terms of the loss")))
        if not names:
            return {}
        nothing = torch.zeros(2, device=accelerator.device)
        own = [self._sums.get(name, nothing) for name in names]
        self.clear()
        totals = accelerator.reduce(torch.stack(own), reduction="sum").tolist()
        return {f"terms/{name}": total / max(1.0, count) for name, (total, count) in zip(names, totals, strict=True)}

    def clear(self) -> None:
        self._sums.clear()
