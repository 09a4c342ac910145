"""Tables of a run's stages: Parquet files, whole or absent."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json, whole_file

TOKENS = pa.list_(pa.int32())

# A line a prompt. data_*: what the data has as responses, where responses.source takes them from there.
PROMPTS = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "prompt": pa.string(),  # as people read it: the last message
        "messages": pa.string(),  # the conversation as JSON, without the recipe's system message
        "context": pa.string(),  # tools and variables of the chat template as JSON, null without any
        "prompt_ids": TOKENS,
        "data_response_ids": pa.list_(TOKENS),
        "data_scores": pa.list_(pa.float64()),
    }
)

# A line a response; `id` is <group>#<index>, `group` the prompt's id.
RESPONSES = pa.schema(
    {
        "id": pa.string(),
        "group": pa.string(),
        "index": pa.int32(),
        "source": pa.string(),  # teacher, student or data
        "split": pa.string(),
        "prompt": pa.string(),
        "messages": pa.string(),
        "context": pa.string(),
        "prompt_ids": TOKENS,
        "response_ids": TOKENS,
        "response": pa.string(),
        "finished": pa.bool_(),  # ended by a stop token, not by the limit of length
        "data_score": pa.float64(),
    }
)


def read_table(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The records of a Parquet file. Raises UserError, naming the file, for one that is damaged."""
    with _readable(path):
        records: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return records


def read_metadata(path: Path, key: bytes) -> Any:
    """A JSON value that stands in the file's own metadata; UserError as read_table."""
    with _readable(path):
        return parse_json(pq.read_schema(path).metadata[key])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; delete the folder {path.parent} and give the same command again") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, NotJSON) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: damaged ({reason}); delete it and give the same command again") from None


def write_table(path: Path, records: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Write records as one Parquet file."""
    with whole_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(records, schema=schema), aside)
