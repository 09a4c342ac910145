"""Rankers by name: a file of this folder, or a class of one's own as package.module:Class."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from grkd.errors import UserError
from grkd.imports import imported
from grkd.rankers._base import Ranker

_NO_RANKERS = ("agreement", "combine", "panel")  # the room's other files


def names() -> list[str]:
    """Every ranker in this folder, in alphabetical order."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in files if not name.startswith("_") and name not in _NO_RANKERS)


def ranker(name: str) -> type[Ranker]:
    """The dataclass of a ranker's options, by file name or as package.module:Class. Raises UserError for neither."""
    if ":" in name:
        found = imported(name)
        if not (isinstance(found, type) and issubclass(found, Ranker)):
            raise UserError(f"{name} is no subclass of grkd.rankers.Ranker; for a function use function: {name}")
        return found
    if name not in names():
        raise UserError(f"unknown ranker {name!r}{_nearest(name, names())}; known: {', '.join(names())}")
    made: type[Ranker] = importlib.import_module(f"grkd.rankers.{name}").RANKER
    return made


def option_types(chosen: type[Ranker]) -> dict[str, Any]:
    """A ranker's options and their types."""
    hints = get_type_hints(chosen)
    return {field.name: hints[field.name] for field in fields(chosen) if field.init}


def load(name: str, **options: Any) -> Ranker:
    """A ranker with its options: load("verifier", answer="solution", kind="math").

    Raises UserError for an unknown ranker or option, one that is missing, or a bad value.
    """
    chosen = ranker(name)
    kinds = option_types(chosen)
    for option, value in options.items():
        if option not in kinds:
            listed = ", ".join(kinds) or "it has none"
            raise UserError(f"ranker {name}: unknown option {option!r}{_nearest(option, list(kinds))}; known: {listed}")
        try:
            _checker(kinds[option])(value)
        except ValidationError as error:
            wanted = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
            raise UserError(f"ranker {name}: {option} {wanted}, got {value!r}"[:400]) from None
    missing = [field.name for field in fields(chosen) if field.init and _required(field) and field.name not in options]
    if missing:
        raise UserError(f"ranker {name} needs {' and '.join(missing)}")
    return chosen(**options)


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _checker(kind: Any) -> Callable[[Any], Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
