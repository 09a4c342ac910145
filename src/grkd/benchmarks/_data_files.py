"""Files of benchmarks in the user's folder, plain or compressed."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import parse_json, read_bytes


@dataclass(frozen=True, kw_only=True)
class ComparedQuestion:
    """A question and the baseline's answer to it. row: the benchmark's own record."""

    id: str
    question: str
    baseline: str
    row: dict[str, Any]


def spread(items: Sequence[Any], limit: int | None) -> list[Any]:
    """`limit` items evenly over the whole sequence, in its order; all of them for None."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


def json_lines(path: Path) -> list[dict[str, Any]]:
    rows = [parse_json(line) for line in text_of(path).split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return rows


def text_of(path: Path) -> str:
    content = read_bytes(path)
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def found_file(path: Path, where: str) -> Path:
    """The file, or the same compressed. Raises UserError that says where to get it."""
    packed = path.with_name(path.name + ".gz")
    for candidate in (path, packed):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no such file; {where}, and name the folder above with --data")
