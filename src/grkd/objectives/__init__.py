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
    from grkd.objectives._base import Across, Choice, LeastTeacher, Objective
    from grkd.objectives._batch import Batch, Features, Level, Opinions, ResponseTokens, Votes
    from grkd.objectives._module import GRKDLoss
    from grkd.objectives._terms import Term, combine
    from grkd.objectives.methods.grkd import GRKD
    from grkd.objectives.presets import PRESETS

__all__ = [
    "GRKD",
    "PRESETS",
    "Across",
    "Batch",
    "Choice",
    "Features",
    "GRKDLoss",
    "LeastTeacher",
    "Level",
    "Mistake",
    "Objective",
    "Opinions",
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

_WITH_TORCH = {
    "GRKDLoss": "_module",
    "GRKD": "methods.grkd",
    "PRESETS": "presets",
    **dict.fromkeys(("Across", "Choice", "LeastTeacher", "Objective"), "_base"),
    **dict.fromkeys(("Batch", "Features", "Level", "Opinions", "ResponseTokens", "Votes"), "_batch"),
    **dict.fromkeys(("Term", "combine"), "_terms"),
}


def __getattr__(name: str) -> Any:
    """The classes that need torch, imported when they are asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


def names() -> list[str]:
    """Every method that comes with grkd, in alphabetical order.

    Returns
    -------
    list of str
        Names of files in grkd/objectives/methods.

    Examples
    --------
    >>> from grkd import objectives
    >>> "grkd" in objectives.names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def summaries() -> dict[str, str]:
    """The first line of every method's file; no file is imported.

    Returns
    -------
    dict of str to str
        By the method's name.

    Examples
    --------
    >>> from grkd import objectives
    >>> set(objectives.summaries()) == set(objectives.names())
    True
    """
    files = {path.stem: path for folder in methods.__path__ for path in Path(folder).glob("*.py")}
    trees = {name: ast.parse(files[name].read_text(encoding="utf-8")) for name in names()}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()}


def method(name: str) -> "type[Objective]":
    """The dataclass of a method's options.

    Parameters
    ----------
    name : str
        A method's name, or "package.module:Class" of your own.

    Returns
    -------
    type
        A subclass of `Objective`.

    Raises
    ------
    UserError
        For an unknown name, and for a path that names no subclass of Objective.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.method("kd").__name__
    'KD'
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
    """The name of a method in messages and labels: of an import path, its class.

    Parameters
    ----------
    name : str
        A method's name or import path.

    Returns
    -------
    str
        The name.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.method_name("my_package.losses:Mine")
    'Mine'
    """
    return name.rpartition(":")[2]


def method_table(*columns: str) -> str:
    """The documentation's table of methods in Markdown, one row per method.

    Parameters
    ----------
    *columns : {"learns_from", "minimises", "source"}
        Attributes of the methods' classes.

    Returns
    -------
    str
        The table.

    Examples
    --------
    >>> from grkd import objectives
    >>> print(objectives.method_table("source").splitlines()[0])
    | method | source |
    """
    heads = {"learns_from": "what the student learns from", "minimises": "what it minimises", "source": "source"}
    lines = [["method", *(heads[column] for column in columns)], ["---"] * (1 + len(columns))]
    order = ["grkd", *(name for name in names() if name != "grkd")]
    lines += [[f"`{name}`", *(getattr(method(name), column) for column in columns)] for name in order]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def load(name: str, **options: Any) -> "Objective":
    """A method with its options.

    Parameters
    ----------
    name : str
        A method's name, or "package.module:Class" of your own.
    **options : Any
        The method's options, see `grkd methods NAME`; of grkd also a preset, and options of parts by dotted path.

    Returns
    -------
    Objective
        The method.

    Raises
    ------
    UserError
        For an unknown method or option, or a bad value.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.load("kd", temperature=4.0).temperature
    4.0
    >>> objectives.load("grkd", preset="tokens", **{"pairs.tau": 0.5}).ranking[0].tau
    0.5
    """
    chosen = method(name)
    for mistake in chosen.mistakes(options):
        raise UserError(f"{method_name(name)}: {mistake.sentence()}")
    return chosen.built(options)
