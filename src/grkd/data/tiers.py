"""Partial orders as tiers: candidates that share a place are tied."""

import json
from collections.abc import Sequence
from typing import Any

from grkd.errors import UserError


def tiered(where: str, tiers: Sequence[Sequence[Any]], count: int, *, noun: str = "candidate") -> list[float]:
    """The number of each candidate's tier, from 0 for the best; those left out share the last one. noun: for errors.

    Raises UserError, which begins with `where`, for numbers that are no candidate's or come twice.
    """
    places = [float(len(tiers))] * count
    seen: set[int] = set()
    for number, tier in enumerate(tiers):
        for one in tier:
            if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < count:
                raise UserError(
                    f"{where}: expected numbers of {noun}s, 0 to {count - 1}, got {json.dumps(one, default=str)}"
                )
            if one in seen:
                raise UserError(f"{where}: {noun} {one} is there twice")
            seen.add(one)
            places[one] = float(number)
    return places
