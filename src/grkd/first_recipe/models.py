"""The teacher and the student that a user names: folders, hub names or a URL."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grkd.data.language import vocabulary_size
from grkd.errors import UserError
from grkd.first_recipe.lines import Entry

_CONTEXT = 2048  # tokens, of a model whose config is not at hand
_MOST_NEW_TOKENS = 512
_CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True, kw_only=True)
class Named:
    """Models of a language recipe. shared: one vocabulary; None if a tokenizer is not at hand. text_only: a served
    teacher without log-probabilities. context: tokens."""

    teacher: list[Entry]
    student: list[Entry]
    context: int
    shared: bool | None = None
    served: bool = False
    text_only: bool = False


def is_url(name: str | None) -> bool:
    return name is not None and name.startswith(("http://", "https://"))


def model(name: str) -> str | Path:
    """A folder as a path, one that holds nothing but a GGUF file as that file's, a hub name as it is.

    Raises UserError for a path that leads nowhere, or to several GGUF files.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not any(path.glob("*config.json")):
        there = sorted(path.glob("*.gguf"))
        if len(there) > 1:
            names = ", ".join(one.name for one in there[:6])
            raise UserError(f"{name}: several GGUF files in it ({names}); give one of them, such as {there[0]}")
        return there[0] if there else path
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: no such folder; give a model's folder, a hub name such as org/name, or a URL")
    return name


def language_models(teacher: str | None, student: str | None, *, served_model: str | None, text_only: bool) -> Named:
    """Teacher and student of a language recipe; without a student, every second layer of the teacher.

    Raises UserError for what is missing: a teacher, the served model's name, a student of a served teacher.
    """
    if teacher is None:
        raise UserError("--teacher: conversations need one; give a model's folder, a hub name, or a server's URL")
    if is_url(teacher):
        if served_model is None:
            raise UserError("--served-model: give the model's name on the server (vLLM's --served-model-name)")
        if student is None:
            raise UserError("--student: a served teacher has no layers to keep; give a model's folder or hub name")
        entries = [Entry("url", teacher, "the key is read from OPENAI_API_KEY, never from this file")]
        entries.append(Entry("served_model", served_model))
        if text_only:
            entries.append(Entry("log_probs", False, "text alone, as chat APIs give it"))
            entries.append(Entry("max_requests", 20_000, "per command, retries included: what it may cost at most"))
        trained = model(student)
        own = [Entry("model", trained, "the model to train")]
        return Named(teacher=entries, student=own, served=True, text_only=text_only, context=_context(str(trained)))
    if text_only or served_model is not None:
        raise UserError("--text-only and --served-model belong to a served teacher: --teacher https://...")
    large = model(teacher)
    entries, teacher = [Entry("model", large)], str(large)
    if student is None:
        own = [Entry("layers", _every_second(teacher), "of the teacher, kept; or name a model: instead")]
        return Named(teacher=entries, student=own, shared=True, context=_context(teacher))
    small = model(student)
    return Named(
        teacher=entries,
        student=[Entry("model", small)],
        shared=_one_vocabulary(teacher, str(small)),
        context=min(_context(teacher), _context(str(small))),
    )


def new_tokens(longest: int, context: int) -> int:
    """Longest response in tokens: half as much again as the data's longest answer, within half the context."""
    wanted = 256 if not longest else 1.5 * longest / _CHARACTERS_PER_TOKEN
    limit = max(1, min(context // 2, _MOST_NEW_TOKENS))
    return next((power for power in (16, 32, 64, 128, 256, 512) if wanted <= power <= limit), limit)


@cache
def _config(name: str) -> Any:
    """A model's config, of a GGUF file too, which takes seconds to read; None if it is not at hand."""
    from grkd.models.load import config_of_gguf, known_config

    return config_of_gguf(name) if Path(name).suffix == ".gguf" else known_config(name)


def _context(name: str) -> int:
    config = _config(name)
    found = None if config is None else getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) else _CONTEXT


def _every_second(teacher: str) -> list[int]:
    config = _config(teacher)
    depth = None if config is None else getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(depth, int) or depth < 2:
        raise UserError(
            "--student: the teacher's config is not available, so its layers cannot be counted; name a model"
        )
    kept = list(range(0, depth, 2))
    return [*kept[:-1], depth - 1]  # the last layer is what the head reads


def _one_vocabulary(teacher: str, student: str) -> bool | None:
    """Whether both map tokens to the same ids; None if a model is not on this machine."""
    from grkd.models.load import check_same_vocabulary, load_tokenizer

    if _config(teacher) is None or _config(student) is None:
        return None
    one, other = load_tokenizer(teacher), load_tokenizer(student)
    if vocabulary_size(one) != vocabulary_size(other):
        return False
    try:
        check_same_vocabulary(one, other)
    except UserError:
        return False
    return True
