"""One file a method; the file's name is the method's name.

A method's file holds a frozen dataclass of options (a subclass of Objective) and names it METHOD.
Torch is imported with the first method or class that is asked for: `names` and `summaries` are for the command's help.
"""

import ast
import difflib
import importlib
import math
import pkgutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from grkd.errors import UserError
from grkd.objectives._forms import FORMS, spelt_out

if TYPE_CHECKING:
    from grkd.objectives._base import Batch, Choice, Level, Objective, Term, combine
    from grkd.objectives._module import GRKDLoss

__all__ = [
    "FORMS",
    "Batch",
    "Choice",
    "GRKDLoss",
    "Level",
    "Objective",
    "Term",
    "combine",
    "load",
    "method",
    "names",
    "spelt_out",
    "summaries",
]

_WITH_TORCH = {"GRKDLoss": "_module"} | dict.fromkeys(
    ("Batch", "Choice", "Level", "Objective", "Term", "combine"), "_base"
)


def __getattr__(name: str) -> Any:
    """The classes that need torch, imported when they are asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


def names() -> list[str]:
    """Every method in this folder, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def summaries() -> dict[str, str]:
    """The first line of every method's file by the method's name; no file is imported."""
    folder = Path(__path__[0])
    files = {name: ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")) for name in names()}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in files.items()}


def method(name: str) -> "type[Objective]":
    """The dataclass of a method's options. Raises UserError for an unknown name."""
    if name not in names():
        raise UserError(f"unknown method {name!r}{_nearest(name, names())}; known: {', '.join(names())}")
    found: type[Objective] = importlib.import_module(f"{__name__}.{name}").METHOD
    return found


def load(name: str, **options: Any) -> "Objective":
    """A method with its options: load("grkd", tau=0.5), load("grkd", form="tokens").

    Raises UserError for an unknown method, form or option, or a bad value.
    """
    chosen, options = method(name), spelt_out(name, options)
    known = [field.name for field in fields(chosen)]
    kinds = get_type_hints(chosen)
    for option, value in options.items():
        if option not in known:
            listed = ", ".join(known) or "it has none"
            raise UserError(f"{name}: unknown option {option!r}{_nearest(option, known)}; known: {listed}")
        wanted = _wanted(kinds[option], value)
        if wanted:
            raise UserError(f"{name}: {option} must be {wanted}, got {value!r}")
    return chosen(**options)


def _wanted(kind: Any, value: Any) -> str | None:
    """What an option of this type should be, where the value is something else; other types are the method's to check.

    YAML gives a text for `"2"` and for `yes` in quotes: taken as they are, they would fail late or count as true.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and not (number and math.isfinite(value)):
        return "a finite number"
    if kind is int and not (number and isinstance(value, int)):
        return "a whole number"
    if kind is bool and not isinstance(value, bool):
        return "true or false"
    if get_origin(kind) is Literal and value not in get_args(kind):
        return "one of " + ", ".join(map(str, get_args(kind)))
    return None


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
