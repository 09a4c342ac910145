"""Rows of CSV and TSV files: every cell is text, and every error names the line."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from grkd.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 30  # characters; csv refuses more than 131,072 unless told

Row = tuple[int, dict[str, str]]


def delimited_rows(
    path: Path, content: str, *, check_header: Callable[[list[str], str], None] | None = None
) -> Iterator[Row]:
    """The number of the line that each row begins in, and its cells by column; empty rows are skipped.

    Cells stay as they are written: `007`, `1.10`, `NA` and `None` are texts. check_header: called with the names of the
    columns and where they stand. Raises UserError for a malformed row, or one with another number of cells.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=SEPARATORS[path.suffix.lower()])
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            line, start = start, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                if check_header is not None:
                    check_header(header, f"{path}: line {line}")
            elif len(row) != len(header):
                raise UserError(
                    f"{path}: line {line}: {len(row)} fields, the header has {len(header)}; "
                    "put quotes around a text with the separator or a line break in it"
                )
            else:
                yield line, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {start}: malformed row ({error})") from None
