"""Files of benchmarks: data in the user's folder and files of judged rows, gzipped or not; a line for every mistake."""

import gzip
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.data.text_rows import json_rows
from grkd.errors import UserError
from grkd.files import parse_json, read_bytes

_FIELD = re.compile(r"\{(\w+)\}")


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


def filled(template: str, values: Mapping[str, str], *, source: str, where: str) -> str:
    """The template with values in its {fields}, in one pass, so that braces inside an answer stay what they are.

    Raises UserError, which begins with `source`, for an unknown field.
    """

    def value(field: re.Match[str]) -> str:
        if field[1] not in values:
            raise UserError(f"{source} asks for an unknown {field[0]}; {where}")
        return values[field[1]]

    return _FIELD.sub(value, template)


def found_file(path: Path, where: str) -> Path:
    """The file, or the same compressed. Raises UserError that says where to get it."""
    packed = path.with_name(path.name + ".gz")
    for candidate in (path, packed):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no such file; {where}, and name the folder above with --data")


def json_lines(path: Path, where: str, fields: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects of a benchmark's JSONL file, each with these fields. where: where to get the file.

    Raises UserError that names the line.
    """
    path, rows = found_file(path, where), []
    for place, _, row in json_rows(path, text_of(path, "JSON lines")):
        if not isinstance(row, dict):
            raise UserError(f"{place}: not a JSON object; {where}")
        if missing := [field for field in fields if field not in row]:
            raise UserError(f"{place}: no {missing[0]!r} in it; {where}")
        rows.append(row)
    return rows


def read_rows(path: Path, mistake: Callable[[dict[str, Any]], str | None], *, kind: str) -> list[dict[str, Any]]:
    """The objects of a JSON list or a JSONL file. `mistake` says what is wrong with an object, None if nothing.

    Raises UserError that names the row (of a list) or line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a JSON or JSONL file of {kind}")
    text = text_of(path, kind)
    listed = text.lstrip().startswith("[")
    numbered = list(enumerate(_list(path, text), start=1)) if listed else _lines(path, text)
    if not numbered:
        raise UserError(f"{path}: no {kind} in it")
    for number, row in numbered:
        wrong = mistake(row) if isinstance(row, dict) else "not a JSON object"
        if wrong is not None:
            raise UserError(f"{path}, {'row' if listed else 'line'} {number}: {_short(wrong)}")
    return [row for _, row in numbered]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: None stands for it."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}


def text_of(path: Path, kind: str) -> str:
    """The text of a file, gzipped or not. Raises UserError for anything else."""
    content = read_bytes(path)
    try:
        # By its first bytes, since a name says little about what was unpacked.
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text or gzip file of {kind} ({_short(str(error))})") from None


def _list(path: Path, text: str) -> list[Any]:
    try:
        rows: list[Any] = parse_json(text, strict=False)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {_short(str(error))}") from None
    return rows


def _lines(path: Path, text: str) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, parse_json(line, strict=False)))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {_short(str(error))}") from None
    return rows


def _short(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= 160 else whole[:157] + "..."
