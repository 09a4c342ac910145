"""JSON lines on disk, appended one by one as they come and found again by key, so that a kill loses nothing."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import parse_json


class Journal:
    """A file of JSON objects, each with a `key`; safe for the threads of one process.

    A last line without its end (the process was killed while it wrote) is dropped; any other line that is not such an
    object raises UserError with file and line. Of two lines with one key the later counts.
    Without a path it is kept in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read(path)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._records.values()))

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def add(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Append one line and have it on the disk before this returns. Returns what was written."""
        whole = {"key": key, **record}
        line = (json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            if self.path is not None:
                with self.path.open("ab") as stream:
                    stream.write(line)
                    stream.flush()
                    os.fsync(stream.fileno())
            self._records[key] = whole
        return whole

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)  # else the next line would be glued to the torn one
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                record = parse_json(line)
                self._records[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number}: not a stored answer of grkd; remove the line (it is asked for again)"
                ) from None
