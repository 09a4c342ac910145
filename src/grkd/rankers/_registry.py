"""Rankers by name: a file of this folder, or a class of one's own as package.module:Class."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from grkd import rankers
from grkd.errors import UserError, meant
from grkd.imports import imported
from grkd.rankers._base import Ranker

_NO_RANKERS = ("agreement", "combine", "members", "panel", "several")  # the room's other files


def names() -> list[str]:
    """Every ranker that comes with grkd, in alphabetical order.

    Returns
    -------
    list of str
        Names of files in grkd/rankers.

    Examples
    --------
    >>> from grkd import rankers
    >>> "verifier" in rankers.names()
    True
    """
    found = (module.name for module in pkgutil.iter_modules(rankers.__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _NO_RANKERS)


def ranker(name: str) -> type[Ranker]:
    """The dataclass of a ranker's options.

    Parameters
    ----------
    name : str
        A ranker's name, or "package.module:Class" of your own.

    Returns
    -------
    type
        A subclass of `Ranker`.

    Raises
    ------
    UserError
        For an unknown name, and for a path that names no ranker.

    Examples
    --------
    >>> from grkd import rankers
    >>> rankers.ranker("data").__name__
    'Data'
    """
    if ":" in name:
        found = imported(name)
        if not (isinstance(found, type) and issubclass(found, Ranker)):
            raise UserError(f"{name} is not a subclass of grkd.rankers.Ranker; for a function use function: {name}")
        return found
    if name not in names():
        raise UserError(f"unknown ranker {name!r}{meant(name, names())}; known: {', '.join(names())}")
    made: type[Ranker] = importlib.import_module(f"grkd.rankers.{name}").RANKER
    return made


def option_types(chosen: type[Ranker]) -> dict[str, Any]:
    """A ranker's options and their types.

    Parameters
    ----------
    chosen : type
        A subclass of `Ranker`.

    Returns
    -------
    dict of str to type
        By the option's name.

    Examples
    --------
    >>> from grkd import rankers
    >>> "answer" in rankers.option_types(rankers.ranker("verifier"))
    True
    """
    hints = get_type_hints(chosen)
    return {field.name: hints[field.name] for field in fields(chosen) if field.init}


def load(name: str, **options: Any) -> Ranker:
    """A ranker with its options.

    Parameters
    ----------
    name : str
        A ranker's name, or "package.module:Class" of your own.
    **options : Any
        The ranker's options, see docs/guide/rankers.md.

    Returns
    -------
    Ranker
        Call its `open` before it scores.

    Raises
    ------
    UserError
        For an unknown ranker or option, one that is missing, or a bad value.

    Examples
    --------
    >>> from grkd import rankers
    >>> verifier = rankers.load("verifier", answer="solution", kind="number")
    >>> verifier.open(rankers.Resources())
    >>> verifier(["2 + 2?"], [["It is 4.", "It is 5."]], {"solution": ["4"]})
    array([[1., 0.]])
    """
    chosen = ranker(name)
    kinds = option_types(chosen)
    for option, value in options.items():
        if option not in kinds:
            listed = ", ".join(kinds) or "it has none"
            raise UserError(f"ranker {name}: unknown option {option!r}{meant(option, list(kinds))}; known: {listed}")
        try:
            _checker(kinds[option])(value)
        except ValidationError as error:
            wanted = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
            raise UserError(f"ranker {name}: {option} {wanted}, got {value!r}"[:400]) from None
    missing = [
        one.name
        for one in fields(chosen)
        if one.init and one.default is MISSING and one.default_factory is MISSING and one.name not in options
    ]
    if missing:
        raise UserError(f"ranker {name} needs {' and '.join(missing)}")
    return chosen(**options)


@cache
def _checker(kind: Any) -> Callable[[Any], Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python
