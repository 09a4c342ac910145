"""Parquet files, whole or absent; a damaged one is a user's error that names it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json, whole_file


def read_table(
    path: Path, columns: list[str] | None = None, *, needed: Sequence[str] = (), made_by: str = "a stage"
) -> list[dict[str, Any]]:
    """The records of a Parquet file, or some of their columns.

    needed: columns that must be there; all of `columns` must. made_by: what makes the file again.
    Raises UserError, naming the file, for one that is missing, damaged or without a column.
    """
    with _readable(path, made_by):
        about = pq.ParquetFile(path)
        absent = [name for name in (*(columns or ()), *needed) if name not in about.schema_arrow.names]
        if absent and about.metadata.num_rows:  # an empty table may be without columns
            raise ValueError(f"no column {absent[0]!r}")
        records: list[dict[str, Any]] = pq.read_table(path, columns=columns if not absent else None).to_pylist()
    return records


def read_metadata(path: Path, key: bytes) -> Any:
    """A JSON value that stands in the file's own metadata; UserError as read_table."""
    with _readable(path, "a stage"):
        return parse_json(pq.read_schema(path).metadata[key])


def write_table(path: Path, records: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Write records as one Parquet file."""
    with whole_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(records, schema=schema), aside)


@contextmanager
def _readable(path: Path, made_by: str) -> Iterator[None]:
    again = "repeat the command" if made_by == "a stage" else f"run {made_by} again"
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; delete the folder {path.parent} and {again}") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, NotJSON) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: damaged ({reason}); delete it and {again}") from None
