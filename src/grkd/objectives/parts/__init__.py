"""What grkd is composed of: one file per part, found by the file's name.

A part's file holds a frozen dataclass (a subclass of Part) and names it PART. Parts that only research used are in
grkd.objectives.contrib, one's own anywhere: `part: package.module:Class`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from grkd.errors import UserError
from grkd.imports import imported_class, is_import_path
from grkd.objectives import contrib
from grkd.objectives._options import Mistake, converted, meant, mistakes, options_of
from grkd.objectives.parts._base import Axis, Part, batch_mean
from grkd.objectives.parts._score_pair import ScorePair
from grkd.objectives.parts.correlation import Correlation
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.parts.soft_target import SoftTarget

__all__ = [
    "Axis",
    "Correlation",
    "Pairs",
    "Part",
    "ScorePair",
    "SoftTarget",
    "batch_mean",
    "checked",
    "mistakes_in",
    "names",
    "part",
    "part_name",
    "read",
    "to_plain",
]


def names() -> list[str]:
    """Every part that comes with grkd; those of contrib with "contrib." before their name."""
    own = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")
    left = sorted(module.name for module in pkgutil.iter_modules(contrib.__path__) if module.name[0] != "_")
    return own + [f"contrib.{name}" for name in left]


def part(name: str) -> type[Part]:
    """The class of a part, by name or import path. Raises UserError for an unknown one."""
    if is_import_path(name):
        found: type[Part] = imported_class(name, Part)
        return found
    if name not in names():
        raise UserError(f"unknown part {name!r}{meant(name, names())}; known: {', '.join(names())}")
    folder = "grkd.objectives." if name.startswith("contrib.") else "grkd.objectives.parts."
    built_in: type[Part] = importlib.import_module(folder + name).PART
    return built_in


def part_name(kind: type[Part]) -> str:
    """The name under which `part` finds this class."""
    folder, _, file = kind.__module__.rpartition(".")
    if folder == "grkd.objectives.parts":
        return file
    return f"contrib.{file}" if folder == "grkd.objectives.contrib" else f"{kind.__module__}:{kind.__qualname__}"


def mistakes_in(entry: Any, place: tuple[str | int, ...]) -> list[Mistake]:
    """What is wrong with one entry of a list of parts: a Part, or {part: name, option: value, ...}."""
    if isinstance(entry, Part):
        return []
    if not isinstance(entry, Mapping) or not isinstance(entry.get("part"), str):
        return [Mistake(place, entry, text=f"expected a part, such as {{part: pairs, tau: 0.5}}, got {entry!r}")]
    try:
        kind = part(entry["part"])
    except UserError as error:
        return [Mistake((*place, "part"), entry["part"], text=str(error))]
    found = mistakes(options_of(kind), {name: value for name, value in entry.items() if name != "part"}, place)
    if not found:
        try:
            read(entry)
        except UserError as error:
            return [Mistake(place, entry, text=str(error))]
    return found


def checked(owner: str, name: str, entries: Any) -> tuple[Part, ...]:
    """The parts of a list. Raises UserError for what is no list of parts."""
    if not isinstance(entries, list | tuple):
        raise UserError(f"{owner}: {name} must be a list of parts, got {entries!r}")
    for number, entry in enumerate(entries):
        for mistake in mistakes_in(entry, (name, number)):
            raise UserError(f"{owner}: {mistake.sentence()}")
    return tuple(read(entry) for entry in entries)


def read(entry: Any) -> Part:
    """A part from an entry without mistakes. Raises UserError for options out of range."""
    if isinstance(entry, Part):
        return entry
    kind = part(entry["part"])
    given = {name: value for name, value in entry.items() if name != "part"}
    return kind(**converted(options_of(kind), given))


def to_plain(entry: Part) -> dict[str, Any]:
    """A part as recipes write it: its name and the options that differ from the defaults."""
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    changed = {field.name: values[field.name] for field in fields(entry) if values[field.name] != field.default}
    return {"part": part_name(type(entry)), **changed}
