"""Partial orders as tiers: candidates that share a place are tied."""

import json
import math
from collections.abc import Sequence
from itertools import product
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
            _check_number(where, one, count, noun)
            if one in seen:
                raise UserError(f"{where}: {noun} {one} appears twice")
            seen.add(one)
            places[one] = float(number)
    return places


def compared(where: str, pairs: Sequence[Any], count: int, *, noun: str = "candidate") -> list[float]:
    """The same of comparisons, pairs of (better, worse) numbers; NaN for those that are in none.

    What follows from several of them counts: 0 beats 1 and 1 beats 2, so 0 beats 2. Raises UserError for comparisons
    that go in a circle, or that are not those of tiers: 0 beats 1 and 2 beats 3 says nothing of 0 and 3.
    """
    beats = [[False] * count for _ in range(count)]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f"{where}: expected pairs of numbers, the better first, got {json.dumps(pair, default=str)}"
            )
        for one in pair:
            _check_number(where, one, count, noun)
        beats[pair[0]][pair[1]] = True
    for through, first, second in product(range(count), repeat=3):  # in this order: Floyd and Warshall's closure
        beats[first][second] |= beats[first][through] and beats[through][second]
    for one in range(count):
        if beats[one][one]:
            raise UserError(f"{where}: the comparisons of {noun} {one} form a cycle; drop one")
    named = [one for one in range(count) if any(beats[one]) or any(row[one] for row in beats)]
    places = {one: float(sum(row[one] for row in beats)) for one in named}
    for first, second in product(named, repeat=2):
        if beats[first][second] != (places[first] < places[second]):
            text = f"nothing says which of {noun}s {first} and {second} is better; give each comparison as chosen and"
            raise UserError(f"{where}: {text} rejected, one record each")
    return [places.get(one, math.nan) for one in range(count)]


def _check_number(where: str, one: Any, count: int, noun: str) -> None:
    if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < count:
        raise UserError(f"{where}: expected numbers of {noun}s, 0 to {count - 1}, got {json.dumps(one, default=str)}")
