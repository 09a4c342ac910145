"""Rows of a tensor by item id, in safetensors shards in a folder; a shard is whole or absent."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grkd.errors import UserError
from grkd.files import parse_json, whole_file

_OPEN_FILES = 64  # far below what a process may hold open
_MOST_HELD = 2 << 30  # bytes in memory


class RowShards:
    """One tensor per shard, the rows of its items one after the other, and their ids and lengths in its metadata.

    Opening the folder reads the ids alone; `shards[item_id]` reads that item's rows from the memory-mapped file, or
    after `hold` from memory. After a kill, open the folder again and go on with the items that are not in it.
    name: of the tensor, and the start of the files' names. cure: what errors say to do about a file that is damaged.
    """

    def __init__(self, folder: Path, *, name: str, dtype: torch.dtype, cure: str) -> None:
        self.folder, self.name, self.dtype, self.cure = folder, name, dtype, cure
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._open: dict[Path, Any] = {}
        self._held: dict[Path, Tensor] = {}
        for path in self.files():
            self._take(path)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-*.safetensors"))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._places

    def __getitem__(self, item_id: str) -> Tensor:
        """The item's rows, as they were stored; raises KeyError for an item that is not there."""
        path, start, end = self._places[item_id]
        if path in self._held:
            return self._held[path][start:end]
        if path not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open)))
            self._open[path] = self._opened(path)
        rows: Tensor = self._open[path].get_slice(self.name)[start:end]
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_held": {}}  # each worker process opens the files itself

    def hold(self, most_bytes: int = _MOST_HELD) -> None:
        """Read shards into memory, up to so many bytes; the others stay in their files.

        Reading slices of a file takes the interpreter's lock, which a training needs to keep a GPU busy.
        """
        for path in self.files():
            most_bytes -= path.stat().st_size
            if most_bytes < 0:
                return
            self._held[path] = self._opened(path).get_tensor(self.name)

    def length(self, item_id: str) -> int:
        """Rows of an item."""
        _, start, end = self._places[item_id]
        return end - start

    def write_shard(
        self, items: Mapping[str, Tensor], *, number: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Path:
        """Write one more shard: item id -> rows [R_i, width], R_i at least 1.

        number: of its file, for several processes that write into one folder; None takes the next one that is free.
        metadata: more that JSON can hold, of the shard. Raises ValueError for no items, ids that are there already, or
        rows of another form.
        """
        known = [item_id for item_id in items if item_id in self]
        if known or not items:
            raise ValueError(f"in the cache already: {known}" if known else "a shard needs at least one item")
        if any(rows.dim() != 2 or not len(rows) for rows in items.values()):
            raise ValueError(f"{self.name} rows must be [response, width] with at least one row")
        rows = torch.cat([rows.detach().to("cpu", self.dtype) for rows in items.values()])
        described = {"ids": list(items), "lengths": [len(rows) for rows in items.values()], **(metadata or {})}
        path = self._path(self._next() if number is None else number)
        with whole_file(path) as aside:
            save_file({self.name: rows}, aside, metadata={key: json.dumps(value) for key, value in described.items()})
        self._take(path)
        return path

    def check_free(self, numbers: Iterable[int]) -> None:
        """Raises UserError for a shard that is there: in another order of the items it would be lost."""
        for path in map(self._path, numbers):
            if path.exists():
                raise UserError(f"{path}: it holds other items than it would now: their order has changed; {self.cure}")

    def metadata(self, path: Path) -> dict[str, Any]:
        """What a shard says of itself."""
        return {key: parse_json(value) for key, value in self._opened(path).metadata().items()}

    def _take(self, path: Path) -> None:
        described = self._opened(path).metadata()
        start = 0
        for item_id, length in zip(parse_json(described["ids"]), parse_json(described["lengths"]), strict=True):
            self._places[item_id] = (path, start, start + length)
            start += length

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06d}.safetensors"

    def _next(self) -> int:
        return max((int(path.stem.removeprefix(f"{self.name}-")) for path in self.files()), default=-1) + 1

    def _opened(self, path: Path) -> Any:
        return opened(path, self.cure)


def opened(path: Path, cure: str) -> Any:
    """A safetensors file, memory-mapped; raises UserError, with the cure, if it cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {cure}") from error
