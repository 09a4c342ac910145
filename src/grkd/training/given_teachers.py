"""What a GRKDTrainer is given as its teacher: a model, its name, a server, or a list of these with weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from grkd.endpoint.client import base_url
from grkd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Given:
    """One teacher: `model` (a module or a name), or `url` and `served_model`; as in a recipe.

    tokenizer: the teacher's, or its name; None: by the model's name (of a served one the student's).
    label, weight, only: of one of several.
    """

    model: Any = None
    url: str | None = None
    served_model: str | None = None
    tokenizer: Any = None
    top_k: int = 20
    key_env: str | None = None
    concurrency: int = 8
    timeout_seconds: float | int = 600.0
    max_requests: int | None = None
    label: str | None = None
    weight: float | int = 1.0
    only: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.url is None):
            raise UserError("teacher_model: give model, or url and served_model")
        if (self.url is None) != (self.served_model is None):
            raise UserError("teacher_model: url and served_model belong together; give both")
        if self.url is not None:
            base_url(self.url, "teacher_model url")
        if not 0 < self.weight < float("inf"):
            raise UserError(f"teacher_model: weight must be a number above 0, got {self.weight!r}")
        if len(self.only) > 1:
            raise UserError("teacher_model: only is one column and its value, such as {'subject': 'maths'}")

    @property
    def name(self) -> str:
        """Its label, or the last part of its name; empty for a module."""
        named = self.model if isinstance(self.model, str) else ""
        return self.label or self.served_model or named.rstrip("/").rpartition("/")[2]


def given_teachers(teacher: Any) -> list[Given]:
    """The teachers of a trainer, one or several; none for None.

    Raises UserError for unknown keys, an empty list, and two of one label.
    """
    if teacher is None:
        return []
    if not isinstance(teacher, list | tuple):
        return [_given(teacher)]
    if not teacher:
        raise UserError("teacher_model: the list is empty; give a teacher")
    found = [_given(each) for each in teacher]
    found = [each if each.name else replace(each, label=f"teacher-{at}") for at, each in enumerate(found)]
    labels = [each.name for each in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"teacher_model: {twice!r} appears twice; give each its own label")
    return [replace(each, label=each.name) for each in found]


def _given(entry: Any) -> Given:
    if not isinstance(entry, Mapping):
        return Given(model=entry)
    known = [each.name for each in fields(Given)]
    if unknown := [key for key in entry if key not in known]:
        raise UserError(f"teacher_model: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return Given(**entry)
