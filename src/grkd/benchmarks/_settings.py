"""What `grkd eval` is asked to do: settings of the model, of the judge, of the run, and of single benchmarks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from grkd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that answers: a folder, a GGUF file, a hub name, or a URL.

    model_name, model_key_env: of a model behind a URL. answer_tokens: longest answer (None: the benchmark's own).
    """

    model: str | None = None
    model_name: str | None = None
    model_key_env: str | None = None
    answer_tokens: int | None = None
    batch_size: int = 8
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the chat template, such as enable_thinking


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """The judge's URL, name and budget. judge_tokens: longest judgement (None: the benchmark's own)."""

    judge: str | None = None
    judge_model: str | None = None
    judge_key_env: str | None = None
    judge_tokens: int | None = None
    max_requests: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One evaluation. tasks: names of benchmarks. limit: questions per benchmark (None: all).

    own: values of the benchmarks' own options by name.
    """

    tasks: tuple[str, ...] = ()
    data: Path | None = None
    output: Path = Path("runs/eval")
    limit: int | None = None
    seed: int = 0
    concurrency: int = 4
    timeout_seconds: float = 600.0
    model: ModelSettings = field(default_factory=ModelSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """--data, which `check` has found to be there."""
        assert self.data is not None
        return self.data

    def option(self, name: str) -> Any:
        """A benchmark's own option; None when it was not given and has no default."""
        return self.own.get(name)

    def flat(self) -> dict[str, Any]:
        """Every setting that has a value by its name on the command line, for evaluation.json."""
        parts = {**vars(self), **vars(self.model), **vars(self.judge), **self.own}
        del parts["own"]
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in parts.items() if value is not None
        }


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Settings from command-line arguments by name; None means not given."""
    known = {name: value for name, value in given.items() if value is not None}
    parts = {
        kind: {each.name: known.pop(each.name) for each in fields(kind) if each.name in known}
        for kind in (ModelSettings, JudgeSettings)
    }
    plain = {each.name: known.pop(each.name) for each in fields(Settings) if each.name in known}
    model, judge = ModelSettings(**parts[ModelSettings]), JudgeSettings(**parts[JudgeSettings])
    return Settings(**plain, model=model, judge=judge, own=known)


def check_numbers(settings: Settings) -> None:
    """Raises UserError for a number out of range."""
    flat = settings.flat()
    for name in ("limit", "concurrency", "max_requests", "max_tokens", "answer_tokens", "judge_tokens", "batch_size"):
        if flat.get(name) is not None and flat[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, got {flat[name]}")
        if flat.get(name) is not None and flat[name] >= 2**31:
            raise UserError(f"--{name.replace('_', '-')} must be below 2^31")
    if not 0 < settings.timeout_seconds < math.inf:
        raise UserError(f"--timeout must be above 0 seconds, got {settings.timeout_seconds}")
