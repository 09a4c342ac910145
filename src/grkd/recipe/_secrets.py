"""Secrets have no place in a recipe: it is copied into the run's folder, its report and its model cards."""

import re
from collections.abc import Iterator
from typing import Any

from grkd.recipe._words import KeyPath

# Keys of the free mappings (extra, options, config) that hold one, and texts that look like one whatever their key is.
_KEY = re.compile(r"(^|_)(token|api_?key|access_?key|secret(_key)?|password|passwd|credentials?)$", re.IGNORECASE)
_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b|://[^/\s]+:[^/\s]+@"
)

INSTEAD = "looks like a secret, and a recipe is copied into the run's folder; set it as an environment variable"


def secrets(raw: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """The keys in a recipe's raw values that hold a secret."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            if isinstance(value, str) and value and _KEY.search(key):
                yield (*at, key)
            else:
                yield from secrets(value, (*at, key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from secrets(value, (*at, index))
    elif isinstance(raw, str) and _VALUE.search(raw):
        yield at
