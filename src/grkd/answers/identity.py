"""What a model is known by in stored answers and measures."""

from functools import cache
from pathlib import Path
from typing import Any

from grkd.files import digest, file_digest

_WEIGHTS_AND_TEXT = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".py")


def model_digest(model: str) -> str:
    """Digest of the files of a folder (or of a GGUF file), so that a retrained student is another one; a hub name.

    A process reads a file once, until its size or time changes.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _file_digest(path)
    files = [file for file in sorted(path.rglob("*")) if file.suffix in _WEIGHTS_AND_TEXT] if path.is_dir() else []
    return digest({str(file.relative_to(path)): _file_digest(file) for file in files}) if files else model


def digest_in_manifest(model: str, content: Any) -> str:
    """model_digest of a model as it was when a run began, from what the manifest of its prepare stage says of it.

    content: a hub name; a file's digest, or its size and time of change if it is large; or those by the name of a
    folder's file. A large file that has not changed since is read, so that the digest is model_digest's.
    """
    path = Path(model).expanduser()
    if not isinstance(content, dict):
        known = _large(path, content)
        return known if isinstance(known, str) else digest(known)
    files = {name: _large(path / name, one) for name, one in content.items() if Path(name).suffix in _WEIGHTS_AND_TEXT}
    return digest(files) if files else model


def _large(file: Path, content: Any) -> Any:
    if not isinstance(content, list) or not file.is_file():
        return content
    stat = file.stat()
    return _file_digest(file) if content == [stat.st_size, stat.st_mtime_ns] else content


def _file_digest(file: Path) -> str:
    stat = file.stat()
    return _digest_of(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _digest_of(file: Path, *_: int) -> str:
    return file_digest(file)
