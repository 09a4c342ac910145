"""Paths in a recipe: one rule for all of them, found by their types."""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from grkd.recipe._classifier import BUILT_IN_NETWORKS
from grkd.recipe._sections import IsPath
from grkd.recipe._words import KeyPath, Problem, got

Part = TypeVar("Part")

_LONGEST_NAME = 255  # bytes, of a file or folder on every common file system


def placed(section: Part, folder_of: Callable[[KeyPath], Path], at: KeyPath = ()) -> Part:
    """The recipe with its paths made absolute.

    A relative path starts where it is written: `folder_of` gives the recipe's folder for the keys of the file and the
    current folder for those of the command line. ~ is the home folder. A model is a path if it starts with ./, ../, /
    or ~, or if there is a folder of that name; else it is a hub name (or a network's, or an import path).
    """
    changed: dict[str, Any] = {}
    for name, value, mark in _values(section):
        key = (*at, name)
        if mark is not None and isinstance(value, str):
            changed[name] = _absolute(value, mark.kind, folder_of(key))
        elif isinstance(value, list) and value and all(map(_is_section, value)):
            changed[name] = [placed(each, folder_of, (*key, index)) for index, each in enumerate(value)]
        elif mark is not None and isinstance(value, list):
            changed[name] = [_entry(entry, mark, folder_of((*key, index))) for index, entry in enumerate(value)]
        elif is_dataclass(value) and not isinstance(value, type):
            changed[name] = placed(value, folder_of, key)
    return replace(section, **changed)  # type: ignore[type-var]


def path_mistakes(section: Any, at: KeyPath = ()) -> Iterator[Problem]:
    """Texts that can be no path: a home folder of nobody, a name that no file system holds, a URL."""
    for name, value, mark in _values(section):
        key = (*at, name)
        if _is_section(value):
            yield from path_mistakes(value, key)
        for index, each in enumerate(value if isinstance(value, list) else ()):
            if _is_section(each):
                yield from path_mistakes(each, (*key, index))
        if mark is None or not isinstance(value, str):
            continue
        if "://" in value:
            kinds = "a path" if mark.kind == "file" else "a hub name or a folder"
            yield Problem(key, f"expected {kinds}, got a URL")
        elif value.startswith("~") and os.path.expanduser(value).startswith("~"):
            user = value.partition("/")[0]
            yield Problem(key, f"there is no user {got(user[1:])}; write ./{got(user)[1:-1]} for a file of that name")
        elif any(len(part.encode()) > _LONGEST_NAME for part in value.split("/")):
            yield Problem(key, f"a file's name has at most {_LONGEST_NAME} bytes, got {got(value)}")


def _is_section(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _values(section: Any) -> Iterator[tuple[str, Any, IsPath | None]]:
    """Every field's name and value, and its mark if it is a path."""
    hints = get_type_hints(type(section), include_extras=True)
    for field in fields(section):
        yield field.name, getattr(section, field.name), _mark(hints[field.name])


def _mark(hint: Any) -> IsPath | None:
    """The mark of a type, also inside Optional."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, IsPath):
            return part
    return next((mark for part in get_args(hint) if (mark := _mark(part)) is not None), None)


def _entry(entry: Any, mark: IsPath, folder: Path) -> Any:
    """An entry of a list of models or of rankers, its path (or that of its model) made absolute."""
    if mark.kind != "rankers":
        return _absolute(entry, mark.kind, folder) if isinstance(entry, str) else entry
    if isinstance(entry, dict) and entry.get("name") == "reward_model" and isinstance(entry.get("model"), str):
        return {**entry, "model": _absolute(entry["model"], "model", folder)}
    return entry


def _absolute(name: str, kind: str, folder: Path) -> str:
    if kind == "network" and (name in BUILT_IN_NETWORKS or (":" in name and "/" not in name)):
        return name
    is_path = kind == "file" or name.startswith(("./", "../", "/", "~")) or name in (".", "..")
    return os.path.abspath(folder / os.path.expanduser(name)) if is_path or (folder / name).is_dir() else name
