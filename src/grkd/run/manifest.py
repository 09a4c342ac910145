"""A stage's manifest: what it was made from, and size and digest of every file that it left."""

from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import digest, read_json, write_json
from grkd.inventory import inventory

MANIFEST = "manifest.json"
BEGUN = "begun.json"


def write_manifest(folder: Path, *, key: str, inputs: dict[str, Any]) -> None:
    """Write the manifest of a stage's folder whose files are all there."""
    write_json(folder / MANIFEST, {"key": key, "inputs": inputs, **inventory(folder, leave_out=(BEGUN, MANIFEST))})


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the inputs that differ between two manifests."""
    old, new = _leaves(before), _leaves(now)
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _leaves(inputs: Any, name: str = "") -> dict[str, str]:
    """Digests of all values that are no mappings, by their dotted names."""
    if not isinstance(inputs, dict) or not inputs:
        return {name: digest(inputs)}
    return {
        at: value
        for key, one in inputs.items()
        for at, value in _leaves(one, f"{name}.{key}" if name else str(key)).items()
    }


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """The manifest (or begun.json) of a stage's folder; None if there is none. Raises UserError if it is damaged."""
    path = folder / name
    if not path.exists():
        return None
    try:
        found = read_json(path)
        if isinstance(found["key"], str) and all(type(size) is int for size in found.get("files_bytes", {}).values()):
            return dict(found)
    except (UserError, OSError, AttributeError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: damaged; delete the folder {folder} and repeat the command")
