"""What each model costs to use, beside the metric that decides: size, memory, pace, price."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from grkd.reports._svg import variable_of
from grkd.reports.results import BEFORE, TEACHER, Run
from grkd.reports.summary import Summary
from grkd.reports.tables import DASH, count, name_of, number
from grkd.reports.verdict import deciding_metric

_MILLION = 1_000_000
_UNITS = ("tokens", "examples", "queries")  # of a pace: <unit>_per_second


def cost_view(run: Run, summary: Summary, places: Mapping[str, int]) -> dict[str, Any] | None:
    """A table of the columns that have a value, and notes; None without any cost."""
    prices = _prices(run)
    columns = [
        (title, cells)
        for title, of in _COLUMNS.items()
        if any((cells := {label: of(cost, prices, label) for label, cost in run.costs.items()}).values())
    ]
    if not columns:
        return None
    metric = deciding_metric(summary)
    shown = []
    for label in (TEACHER, BEFORE, *run.labels):
        if label not in run.costs:
            continue
        line = summary.line(label)
        value = None if metric is None or line is None else line.cells[metric.name].mean
        quality = [DASH if value is None else number(value, metric)] if metric is not None else []
        shown.append(
            {
                "name": name_of(label),
                "colour": variable_of(label, places),
                "cells": [*quality, *(cells[label] or DASH for _, cells in columns)],
            }
        )
    unit = f" ({metric.unit})" if metric is not None and metric.unit else ""
    quality = [f"{metric.label}{unit}"] if metric is not None else []
    return {"headers": [*quality, *(title for title, _ in columns)], "lines": shown, "notes": _notes(run, prices)}


def _prices(run: Run) -> dict[str, float]:
    """price_per_hour and teacher_price of the recipe's evaluation, if they are there."""
    recipe = yaml.safe_load(run.recipe) if run.recipe else None
    evaluation = recipe.get("evaluation") if isinstance(recipe, dict) else None
    found = evaluation if isinstance(evaluation, dict) else {}
    return {
        name: float(found[name])
        for name in ("price_per_hour", "teacher_price")
        if isinstance(found.get(name), int | float)
    }


def _notes(run: Run, prices: Mapping[str, float]) -> list[str]:
    units = [unit for unit in _UNITS if any(cost.get(f"{unit}_per_second") for cost in run.costs.values())]
    notes: list[str] = []
    sizes = {int(cost["batch_size"] or 0) for cost in run.costs.values() if cost.get("batch_size")}
    for unit in units:
        notes.append(_NOTES[unit].format(sizes=_range(sizes) if sizes else "a few"))
        if "price_per_hour" in prices:
            notes.append(f"Price: {prices['price_per_hour']:g} per hour of this machine, over its {unit} per hour.")
        elif run.recipe:
            notes.append(f"evaluation.price_per_hour in the recipe adds a price per million {unit}.")
    return notes


def _range(sizes: set[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(min(sizes))


def _size(name: str, units: Sequence[str], one: str = "") -> Callable[..., str]:
    def shown(cost: Mapping[str, float | None], *_: Any) -> str:
        return count(size, units, one) if (size := cost.get(name)) else ""

    return shown


def _pace(unit: str) -> Callable[..., str]:
    def shown(cost: Mapping[str, float | None], *_: Any) -> str:
        pace = cost.get(f"{unit}_per_second")
        return f"{pace:,.0f}" if pace else ""

    return shown


def _price(unit: str) -> Callable[..., str]:
    def shown(cost: Mapping[str, float | None], prices: Mapping[str, float], label: str) -> str:
        if unit == "tokens" and label == TEACHER and "teacher_price" in prices:
            return f"{prices['teacher_price']:.3g}"
        pace, hour = cost.get(f"{unit}_per_second"), prices.get("price_per_hour")
        return f"{hour / (3600 * pace) * _MILLION:.3g}" if pace and hour else ""

    return shown


_NOTES = {
    "tokens": "tokens/s: greedy answers of the evaluation, {sizes} at a time, on the run's machine (on a GPU including "
    "the first call, which compiles). A server that batches more requests is faster.",
    "examples": "examples/s: the held-out examples, {sizes} at a time, on the run's machine.",
    "queries": "queries/s: one query at a time, on the run's machine; a bi-encoder scores the whole index, a "
    "cross-encoder the query's own candidates. A server that batches queries is faster.",
}


_COLUMNS: dict[str, Callable[..., str]] = {
    "parameters": _size("parameters", ("thousand", "million", "billion")),
    "weights": _size("weight_bytes", ("kB", "MB", "GB"), " B"),
    "peak GPU memory": _size("peak_bytes", ("kB", "MB", "GB"), " B"),
    **{f"{unit}/s": _pace(unit) for unit in _UNITS},
    **{f"price per million {unit}": _price(unit) for unit in _UNITS},
}
