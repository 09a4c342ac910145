"""Accuracy by class, what is taken for what, and confusion matrices of classifiers, from evaluate/*/confusion.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grkd.errors import UserError
from grkd.files import read_json
from grkd.reports._svg import variable_of
from grkd.reports.results import TEACHER, Run
from grkd.reports.tables import DASH, name_of

MOST_CLASSES = 400  # rows of the table; the classes that students miss most
_MATRIX = 15  # classes that a matrix has room for
_MISTAKES = 12  # rows of mistakes

Pairs = dict[tuple[int, int], float]  # (label, taken for) -> examples, a mean over seeds


def class_view(run: Run, places: Mapping[str, int]) -> dict[str, Any] | None:
    """What the template shows, or None without such files. problem: why they cannot be shown."""
    try:
        names, models = _read(run)
    except (UserError, KeyError, TypeError, ValueError) as error:
        return {"problem": f"evaluate/*/confusion.json cannot be read: {error}"}
    if not models:
        return None
    return {
        "problem": None,
        "models": [{"name": name_of(label), "colour": variable_of(label, places)} for label in models],
        "classes": _classes(names, models),
        "total": len(names),
        "mistakes": _mistakes(names, models),
        "matrices": [_matrix(names, label, pairs) for label, pairs in models.items()] if len(names) <= _MATRIX else [],
        "names": names,
    }


def _read(run: Run) -> tuple[list[str], dict[str, Pairs]]:
    """Class names, and per model the mean over seeds of its counts: the teacher, then methods."""
    names: list[str] = []
    found: dict[str, list[Pairs]] = {}
    for label, _, path in run.evaluated("confusion.json"):
        read = read_json(path)
        names = [str(name) for name in read["names"]]
        pairs = {(int(a), int(b)): float(n) for a, b, n in read["pairs"]}
        if any(not 0 <= number < len(names) for pair in pairs for number in pair):
            raise ValueError("a class number without a name")
        found.setdefault(label, []).append(pairs)
    order = [label for label in (TEACHER, *run.labels) if label in found]
    return names, {label: _mean(found[label]) for label in order}


def _mean(several: Sequence[Pairs]) -> Pairs:
    keys = dict.fromkeys(key for pairs in several for key in pairs)
    return {key: sum(pairs.get(key, 0.0) for pairs in several) / len(several) for key in keys}


def _examples(pairs: Pairs, number: int) -> float:
    return math.fsum(count for (label, _), count in pairs.items() if label == number)


def _classes(names: Sequence[str], models: Mapping[str, Pairs]) -> list[dict[str, Any]]:
    """Per class its examples and every model's share of right ones; those that students miss most come first."""
    students = [label for label in models if label != TEACHER] or list(models)
    rows: list[tuple[float, dict[str, Any]]] = []
    for number, name in enumerate(names):
        examples = _examples(models[students[0]], number)
        shares = {label: _share(pairs, number) for label, pairs in models.items()}
        known = [share for label in students if (share := shares[label]) is not None]
        row = {
            "name": name,
            "examples": f"{examples:,.0f}",
            "shares": [DASH if share is None else f"{100 * share:.1f}" for share in shares.values()],
        }
        rows.append((sum(known) / len(known) if known else 2.0, row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])][:MOST_CLASSES]


def _share(pairs: Pairs, number: int) -> float | None:
    examples = _examples(pairs, number)
    return pairs.get((number, number), 0.0) / examples if examples else None


def _mistakes(names: Sequence[str], models: Mapping[str, Pairs]) -> list[dict[str, Any]]:
    """The most frequent mistakes, by the sum over all models."""
    keys = {key for pairs in models.values() for key in pairs if key[0] != key[1]}
    often = sorted(keys, key=lambda key: (-sum(pairs.get(key, 0.0) for pairs in models.values()), key))[:_MISTAKES]
    return [
        {"label": names[a], "taken": names[b], "counts": [_count(pairs.get((a, b), 0.0)) for pairs in models.values()]}
        for a, b in often
    ]


def _matrix(names: Sequence[str], label: str, pairs: Pairs) -> dict[str, Any]:
    rows = []
    for number, name in enumerate(names):
        examples = _examples(pairs, number) or 1.0
        counts = [pairs.get((number, other), 0.0) for other in range(len(names))]
        cells = [{"count": _count(count), "share": f"{count / examples:.3f}"} for count in counts]
        rows.append({"name": name, "cells": cells, "own": number})
    return {"name": name_of(label), "rows": rows}


def _count(count: float) -> str:
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"
