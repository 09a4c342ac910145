"""A recipe as text: keys with a comment each, and the keys of every section that were left at their defaults."""

import json
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_WIDTH = 120
_PLAIN = r"[A-Za-z_./~][\w./@+-]*"
_NOT_TEXT = ("true", "false", "null")


@dataclass(frozen=True)
class Entry:
    """A key, its value, and what it means."""

    key: str
    value: Any
    comment: str = ""


@dataclass(frozen=True)
class Part:
    """A section of the recipe. kind: its type, from which the keys that are not given are named."""

    key: str
    entries: Sequence[Entry]
    comment: str = ""
    kind: type | None = None


def text(head: Sequence[str], parts: Sequence[Part | Entry], folder: Path) -> str:
    """The recipe; paths that lie below its folder are written relative to it."""
    lines = [f"# {line}" for line in head]
    in_section = False
    for part in parts:
        if isinstance(part, Entry):
            lines += [*([""] if in_section else []), *_line(part, "", folder)]
            in_section = False
            continue
        in_section = True
        lines += ["", f"{part.key}:" + (f"  # {part.comment}" if part.comment else "")]
        for entry in part.entries:
            lines += _line(entry, "  ", folder)
        if part.kind is not None:
            given = {entry.key for entry in part.entries}
            left = ", ".join(field.name for field in fields(part.kind) if field.name not in given)
            lines += textwrap.wrap(f"also: {left}", _WIDTH, initial_indent="  # ", subsequent_indent="  #   ")
    return "\n".join(lines) + "\n"


def _line(entry: Entry, indent: str, folder: Path) -> list[str]:
    """One line per key; a list of mappings takes a line per entry."""
    comment = f"  # {entry.comment}" if entry.comment else ""
    if isinstance(entry.value, list) and any(isinstance(one, dict) for one in entry.value):
        return [f"{indent}{entry.key}:{comment}", *(f"{indent}  - {_flow(one, folder)}" for one in entry.value)]
    line = f"{indent}{entry.key}: {_flow(entry.value, folder)}"
    if len(line) + len(comment) <= _WIDTH or not comment:
        return [f"{line}{comment}"]
    return [f"{indent}{comment.strip()}", line]


def _flow(value: Any, folder: Path) -> str:
    if isinstance(value, Path):
        return _flow(_relative(value, folder), folder)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one, folder)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(one, folder) for one in value) + "]"
    if isinstance(value, str) and re.fullmatch(_PLAIN, value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def _relative(path: Path, folder: Path) -> str:
    whole = Path(os.path.abspath(path))
    inside = whole.is_relative_to(folder)
    return f"./{whole.relative_to(folder)}" if inside else str(whole)
