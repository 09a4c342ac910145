"""One file per method, in methods/; the file's name is the method's name.

A method's file holds a frozen dataclass of options (a subclass of Objective) and names it METHOD.
Torch is imported with the first method or class that is asked for: `names` and `summaries` are for the command's help.
"""

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.errors import UserError
from grkd.imports import imported_class, is_import_path
from grkd.objectives import methods
from grkd.objectives._options import Mistake, Option, OptionPath, meant, nearest, option, options_of, wanted

if TYPE_CHECKING:
    from grkd.objectives._base import (
        Batch,
        Choice,
        Features,
        LeastTeacher,
        Level,
        Objective,
        ResponseTokens,
        Term,
        Votes,
        combine,
    )
    from grkd.objectives._module import GRKDLoss
    from grkd.objectives.methods.grkd import GRKD
    from grkd.objectives.presets import PRESETS

__all__ = [
    "GRKD",
    "PRESETS",
    "Batch",
    "Choice",
    "Features",
    "GRKDLoss",
    "LeastTeacher",
    "Level",
    "Mistake",
    "Objective",
    "Option",
    "OptionPath",
    "ResponseTokens",
    "Term",
    "Votes",
    "combine",
    "load",
    "method",
    "method_name",
    "method_table",
    "names",
    "nearest",
    "option",
    "options_of",
    "summaries",
    "wanted",
]

_WITH_TORCH = {"GRKDLoss": "_module", "GRKD": "methods.grkd", "PRESETS": "presets"} | dict.fromkeys(
    ("Batch", "Choice", "Features", "LeastTeacher", "Level", "Objective", "ResponseTokens", "Term", "Votes", "combine"),
    "_base",
)


def __getattr__(name: str) -> Any:
    """The classes that need torch, imported when they are asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


def names() -> list[str]:
    """Every method that comes with grkd, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def summaries() -> dict[str, str]:
    """The first line of every method's file by the method's name; no file is imported."""
    folder = Path(methods.__path__[0])
    files = {name: ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")) for name in names()}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in files.items()}


def method(name: str) -> "type[Objective]":
    """The dataclass of a method's options, by name or import path ("package.module:Class").

    Raises UserError for an unknown name, and for a path that names no subclass of Objective.
    """
    if is_import_path(name):
        from grkd.objectives._base import Objective

        own: type[Objective] = imported_class(name, Objective)
        return own
    if name not in names():
        raise UserError(f"unknown method {name!r}{meant(name, names())}; known: {', '.join(names())}")
    found: type[Objective] = importlib.import_module(f"{methods.__name__}.{name}").METHOD
    return found


def method_name(name: str) -> str:
    """The name of a method in messages and labels: of an import path, its class."""
    return name.rpartition(":")[2]


def method_table(*columns: str) -> str:
    """The documentation's table of methods in Markdown: columns "learns_from", "minimises", "source" of every class."""
    heads = {"learns_from": "what the student learns from", "minimises": "what it minimises", "source": "source"}
    lines = [["method", *(heads[column] for column in columns)], ["---"] * (1 + len(columns))]
    order = ["grkd", *(name for name in names() if name != "grkd")]
    lines += [[f"`{name}`", *(getattr(method(name), column) for column in columns)] for name in order]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def load(name: str, **options: Any) -> "Objective":
    """A method with its options: load("kd", temperature=4.0), load("grkd", preset="tokens", **{"pairs.tau": 0.5}).

    name: a method's, or "package.module:Class" of your own.
    Raises UserError for an unknown method or option, or a bad value.
    """
    chosen = method(name)
    for mistake in chosen.mistakes(options):
        raise UserError(f"{method_name(name)}: {mistake.sentence()}")
    return chosen.built(options)
