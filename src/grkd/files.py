"""Files that are complete or absent (write aside, then rename), and JSON read strictly."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grkd.errors import UserError

_ASIDE = ".partial"
_LONGEST_INTEGER = 300  # digits; a float holds numbers of 308
# Half a surrogate pair, a number beyond floats, an integer of hundreds of digits: only texts that may hold one of them
# are looked through.
_SUSPICIOUS = re.compile(rf"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{{3}}|[0-9]{{{_LONGEST_INTEGER}}}")


class NotJSON(ValueError):
    """A text that is no JSON, or no JSON that can be used; the message is short and says why."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and is removed when it does not.

    Raises UserError if a folder has that name.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder is in the place of this file; delete or rename it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path.parent}: a file is in the place of this folder; delete or rename it") from None
    aside = path.with_name(f"{path.name}{_ASIDE}-{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to write into; it becomes `path` (replacing one there) when the block ends well."""
    aside = path.with_name(path.name + _ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    os.replace(aside, path)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_bytes(path: Path, wanted: str = "a file") -> bytes:
    """The bytes of a file that the user names; `wanted` says what to give instead.

    Raises UserError unless it is a regular file that can be read: a device or a pipe may have no end.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe'}; give {wanted}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give {wanted}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give {wanted}") from None


def read_text(path: Path, wanted: str = "a text file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises UserError as `read_bytes`."""
    content = read_bytes(path, wanted)
    if content.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: is compressed with gzip; unpack it and give {wanted}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte {content[error.start]:#04x}"
        raise UserError(f"{path}, line {line}: not UTF-8 ({byte}); save the file as UTF-8") from None


def parse_json(text: str | bytes, *, strict: bool = True) -> Any:
    """The value of a JSON text, as every file and answer that comes from elsewhere is read.

    strict: False lets NaN, infinities, half surrogate pairs and repeated keys pass, for reports, which show what is
    there.
    Raises NotJSON also for what Python's reader lets pass or fails at in other ways: NaN, numbers that no float holds,
    integers of hundreds of digits, nesting beyond the recursion limit, half surrogate pairs (which no file can hold),
    a key that an object has twice, and bytes that are not UTF-8.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        checks: Any = {"object_pairs_hook": _unique, "parse_constant": _refuse_constant}
        value = json.loads(text, **(checks if strict else {}))
        if strict and _SUSPICIOUS.search(text):
            _check_values(value)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise NotJSON(f"{error.msg} at {line}column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise NotJSON(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise NotJSON("nested too deeply") from None
    except NotJSON:
        raise
    except ValueError:  # the interpreter's own limit of an integer's digits
        raise NotJSON(f"an integer of more than {_LONGEST_INTEGER} digits") from None
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file that grkd wrote. Raises UserError, naming the file, for one that is damaged."""
    try:
        return parse_json(read_bytes(path))
    except NotJSON as error:
        raise UserError(f"{path}: damaged, not JSON ({error}); delete it and repeat the command") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJSON(f"the key {twice[:40]!r} appears twice")
    return found


def _refuse_constant(name: str) -> None:
    raise NotJSON(f"{name} is not a JSON number")


def _check_values(value: Any) -> None:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and not one.isascii() and re.search("[\ud800-\udfff]", one):
            raise NotJSON("half of a surrogate pair in a text")
        elif isinstance(one, float) and not math.isfinite(one):
            raise NotJSON("a number that no float holds")
        elif isinstance(one, int) and abs(one) >= 10**_LONGEST_INTEGER:
            raise NotJSON(f"an integer of more than {_LONGEST_INTEGER} digits")


def check_output(folder: Path, name: str = "output") -> None:
    """Raises UserError, which begins with `name`, unless the folder can be made or written to."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{name}: cannot write to {folder}: {there} is {'read-only' if there.is_dir() else 'a file'}")


def full_disk(error: BaseException) -> bool:
    """Whether an error comes of a disk that takes no more.

    The writers of torch and safetensors raise no OSError: the system's reason is in the text, or lost (torch finds its
    file at another position; torch 2.11 names the stream alone when a small file fails at its end).
    """
    text = str(error)
    lost = ("inline_container.cc" in text and ("unexpected pos" in text or "write" in text)) or "iostream error" in text
    told = "No space left on device" in text or "PytorchStreamWriter failed" in text
    return lost or told or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
