"""What a finished folder holds: size and digest of every file, by which damage is noticed later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grkd.files import file_digest


def inventory(folder: Path, *, leave_out: tuple[str, ...] = (), hash_up_to: int | None = None) -> dict[str, Any]:
    """`files_bytes` and `files_sha256` by path within the folder.

    leave_out: names in the folder itself. hash_up_to: larger files (bytes) enter by size alone; None: none do.
    """
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (path.parent == folder and path.name in leave_out)
    }
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return {
        "files_bytes": sizes,
        "files_sha256": {
            name: file_digest(path) for name, path in files.items() if hash_up_to is None or sizes[name] <= hash_up_to
        },
    }


def damages(folder: Path, known: Mapping[str, Any], *, hash_up_to: int | None = None) -> list[str]:
    """The files of an inventory that are not as they were written: "NAME (missing)", (cut or grown), or (altered).

    hash_up_to: larger files are compared by size alone; None: all digests that the inventory has are compared.
    """
    found, digests = [], known.get("files_sha256", {})
    for name, size in known.get("files_bytes", {}).items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} (missing)")
        elif path.stat().st_size != size:
            found.append(f"{name} (cut or grown)")
        elif name in digests and (hash_up_to is None or size <= hash_up_to) and file_digest(path) != digests[name]:
            found.append(f"{name} (altered)")
    return found
