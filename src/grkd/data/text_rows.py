"""Rows of text files, JSON Lines, CSV and TSV; every error names file and line."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 30  # characters; csv refuses more than 131,072 unless told


def json_rows(path: Path, content: str, *, wanted: str | None = None) -> Iterator[tuple[str, int, Any]]:
    """Where each line stands, its number, and its value; blank lines are skipped.

    wanted: what an object should hold; a line that is no object is then an error, too. Raises UserError for such lines.
    """
    # By universal newlines, not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(io.StringIO(content, newline=None), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except NotJSON as error:
            raise UserError(f"{where}: not JSON ({error}); write one JSON object per line") from None
        if wanted is not None and not isinstance(value, dict):
            raise UserError(f"{where}: expected an object with {wanted}")
        yield where, number, value


def delimited_rows(
    path: Path, content: str, *, check_header: Callable[[list[str], str], None] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row begins, and its cells by column (text); empty rows are skipped.

    Cells stay as they are written: `007`, `1.10`, `NA` and `None` are texts. check_header: called with the names of the
    columns and where they stand. Raises UserError for a malformed row, or one with another number of cells.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=SEPARATORS[path.suffix.lower()])
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                if check_header is not None:
                    check_header(header, where)
            elif len(row) != len(header):
                raise UserError(
                    f"{where}: {len(row)} fields, the header has {len(header)}; "
                    "put quotes around a text with the separator or a line break in it"
                )
            else:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: malformed row ({error})") from None
