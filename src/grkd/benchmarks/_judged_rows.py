"""Files of judged rows: JSON or JSONL, gzipped or not, and one line for every mistake in them."""

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import parse_json, read_bytes


def read_rows(path: Path, mistake: Callable[[dict[str, Any]], str | None], *, kind: str) -> list[dict[str, Any]]:
    """The objects of a JSON list or a JSONL file. `mistake` says what is wrong with an object, None if nothing.

    Raises UserError that names the row (of a list) or line.
    """
    text = _text(path, kind)
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


def _text(path: Path, kind: str) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a JSON or JSONL file of {kind}")
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
