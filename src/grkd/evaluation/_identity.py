"""What a model is known by in stored answers and measures."""

from pathlib import Path

from grkd.files import digest, file_digest

_WEIGHTS_AND_TEXT = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".py")


def model_digest(model: str) -> str:
    """Digest of the files of a folder (or of a GGUF file), so that a student trained anew counts anew; a hub name."""
    path = Path(model).expanduser()
    if path.is_file():
        return file_digest(path)
    files = [file for file in sorted(path.rglob("*")) if file.suffix in _WEIGHTS_AND_TEXT] if path.is_dir() else []
    return digest({str(file.relative_to(path)): file_digest(file) for file in files}) if files else model
