"""Metrics of single queries of a ranker, from evaluate/*/queries.npz and queries.json: where students gain and lose."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from grkd.errors import UserError
from grkd.files import read_json
from grkd.metrics.registry import in_order
from grkd.reports._svg import variable_of
from grkd.reports.results import BEFORE, Run
from grkd.reports.tables import DASH, name_of, number

MOST_QUERIES = 200
_LONGEST = 300  # characters


def query_view(run: Run, places: Mapping[str, int]) -> dict[str, Any] | None:
    """What the template shows, or None without such files. problem: why they cannot be shown.

    One metric, the first of the table that queries have. The first seed stands for a method. Queries whose values
    changed most against the student before (or differ most between methods) come first.
    """
    try:
        queries, models = _read(run)
        if not models:
            return None
        shared = set.intersection(*(set(columns) for columns in models.values()))
        metric = next(metric for metric in in_order(sorted(shared)) if metric.direction)
        values = {label: np.asarray(columns[metric.name], dtype=float) for label, columns in models.items()}
        table = np.stack(list(values.values()), axis=-1)
        if len(table) != len(queries):
            raise ValueError(f"{len(table)} values for {len(queries)} queries")
    except (UserError, OSError, BadZipFile, KeyError, StopIteration, TypeError, ValueError) as error:
        return {"problem": f"evaluate/*/queries.npz cannot be read: {error or type(error).__name__}"}
    moved = _moved(table, BEFORE in values)
    order = sorted(range(len(queries)), key=lambda row: (-moved[row], row))[:MOST_QUERIES]
    return {
        "problem": None,
        "metric": metric.label,
        "models": [{"name": name_of(label), "colour": variable_of(label, places)} for label in values],
        "queries": [
            {
                "text": queries[row] if len(queries[row]) <= _LONGEST else queries[row][: _LONGEST - 3] + "...",
                "values": [DASH if math.isnan(value) else number(value, metric) for value in table[row]],
                "is": _turn(table[row], BEFORE in values),
            }
            for row in order
        ],
        "total": len(queries),
    }


def _read(run: Run) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Texts, and per model its columns: the student before, then the first seed of each method."""
    found: dict[str, Path] = {}
    for label, _, path in sorted(run.evaluated("queries.npz"), key=lambda one: one[1] or 0):
        found.setdefault(label, path)
    queries, models = [], {}
    for label in (BEFORE, *run.labels):
        if label in found and (texts := found[label].with_name("queries.json")).is_file():
            queries = [str(text) for text in read_json(texts)]
            with np.load(found[label], allow_pickle=False) as columns:
                models[label] = {name: columns[name] for name in columns.files}
    return queries, models


def _moved(table: np.ndarray, before: bool) -> list[float]:
    """Per query how far a model is from the first column (the student before), or models from each other."""
    reference = table[:, :1] if before and table.shape[1] > 1 else np.nanmin(table, axis=1, keepdims=True, initial=1.0)
    far = np.nan_to_num(np.abs(table - reference))  # a value that is not there has not moved
    return [float(value) for value in far.max(axis=1)]


def _turn(row: np.ndarray, before: bool) -> str:
    """ "better", "worse" or both, against the student before."""
    if not before:
        return ""
    return " ".join(
        word for word, hit in (("better", (row[1:] > row[0]).any()), ("worse", (row[1:] < row[0]).any())) if hit
    )
