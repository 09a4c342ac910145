"""Orders of classes per example, best first: read from records, checked, and as scores whose ties are tiers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.errors import UserError


def read_ranking(value: Any, where: str) -> list[str]:
    """A record's classes, best first, as texts. Raises UserError for anything but a list of different classes."""
    if not isinstance(value, list) or not value:
        raise UserError(f'{where}: must be a list of classes, best first, such as ["refund", "card"]')
    for each in value:
        if isinstance(each, bool) or not isinstance(each, str | int) or not str(each).strip():
            raise UserError(f"{where}: a class must be a text or a whole number, got {each!r}"[:300])
    names = [str(each).strip() for each in value]
    if len(set(names)) < len(names):
        raise UserError(f"{where}: a class appears twice")
    return names


def tier_scores(rankings: Sequence[Sequence[int]], classes: int) -> Float[Tensor, "examples classes"]:
    """-0, -1, ... for the classes that are named, best first; the others share the place behind them.

    An empty order puts all classes in one tier, so that no pair of them is learnt.
    """
    found = torch.empty(len(rankings), classes)
    for row, order in enumerate(rankings):
        found[row] = -float(len(order))
        found[row, list(order)] = -torch.arange(len(order), dtype=torch.float32)
    return found


def numbered(names: Sequence[str], position: Mapping[str, int], where: str) -> list[int]:
    """The classes' numbers. Raises UserError for one that is no class of the data."""
    for name in names:
        if name not in position:
            raise UserError(f"{where}: no training example has the class {name!r}"[:300])
    return [position[name] for name in names]
