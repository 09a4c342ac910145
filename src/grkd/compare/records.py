"""search.json: the trials of all methods, for reports and tables; also of earlier versions."""

from pathlib import Path
from typing import Any

from grkd.files import read_json

# What a record of a language model's search had beside its settings before settings had a place of their own.
_NO_SETTINGS = ("method", "metric", "value", "outcome")


def read_search(path: Path) -> list[dict[str, Any]]:
    """The records of a search.json, each with method, settings, value and outcome.

    Records of earlier versions have no `grid`, and those of language models had their settings among the other keys.
    """
    return [completed(record) for record in read_json(path)]


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """One record in today's shape."""
    if "settings" not in record:
        settings = {name: value for name, value in record.items() if name not in _NO_SETTINGS}
        return {**{name: record[name] for name in _NO_SETTINGS if name in record}, "settings": settings}
    if "outcome" in record:
        return record
    stopped, failure = record.get("stopped_after"), record.get("failure")
    outcome = f"failed: {failure}" if failure else "done" if stopped is None else f"stopped after epoch {stopped}"
    return {**record, "outcome": outcome}
