"""What `grkd eval` left in run folders, read into typed records: one per model and benchmark."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from grkd.errors import UserError
from grkd.reports.results import Text, Value, read_checked

ItemRecord = dict[str, Any]  # with an "id", and whatever was measured of it

_NAMED = re.compile(r"([^=/\\]+)=(.+)")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric's value and the bounds of its 95 % interval, in the benchmark's own unit."""

    value: Value = None
    low: Value = None
    high: Value = None


@dataclass(frozen=True, kw_only=True)
class _Result:
    metrics: dict[str, Estimate] = field(default_factory=dict)
    judge: Text | None = None
    limit: int | None = None
    complete: bool = True
    items: tuple[ItemRecord, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation(_Result):
    """One benchmark of one model. limit: only so many questions; complete: no judgement is missing.

    items: one record per question or response, for paired tests. conditions: settings that must be the same in two
    results for a comparison of them to mean anything (the judge, the worked examples, ...).
    """

    task: str
    model: str
    label: str = ""
    path: Path = Path()


@dataclass(frozen=True, kw_only=True)
class _Summary:
    model: Text
    tasks: dict[Text, _Result]
    generator: Text = ""


_SUMMARY = TypeAdapter(_Summary).validate_python


def read_evaluations(runs: Sequence[str]) -> list[Evaluation]:
    """The results in run folders, in the order given; LABEL=FOLDER names a row, else the files' own label does.

    A folder holds evaluation.json (all tasks of a model), or folders with one up to three levels below.
    Raises UserError for a folder without results, a broken file, or two results of one task for one label.
    """
    found: list[Evaluation] = []
    for run in runs:
        label, folder = _named(run)
        here = list(_in(folder))
        if not here:
            if (folder / "results.json").is_file():
                raise UserError(
                    f"{folder}: a run's folder; `grkd report` shows its table, "
                    "and `grkd table` the outputs of `grkd eval` of its students"
                )
            raise UserError(f"{folder}: no evaluation.json in it; give an output of `grkd eval`")
        found += [replace(one, label=label or one.label or Path(one.model).name or one.model) for one in here]
    seen: dict[tuple[str, str], Path] = {}
    for one in found:
        first = seen.setdefault((one.label, one.task), one.path)
        if first != one.path:
            raise UserError(
                f"{one.path}: a second result of {one.task} for {one.label!r} (the first is {first}); "
                "name the rows: grkd table LABEL=FOLDER ..."
            )
    return found


def _named(run: str) -> tuple[str | None, Path]:
    """ "LABEL=FOLDER" -> (label, folder); a folder that has such a name itself stays whole."""
    named = None if Path(run).exists() else _NAMED.fullmatch(run)
    label, folder = (named[1], Path(named[2])) if named else (None, Path(run))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give an output of `grkd eval`, or LABEL=FOLDER")
    return label, folder


def _in(folder: Path) -> Iterator[Evaluation]:
    places = [path for depth in ("", "*/", "*/*/", "*/*/*/") for path in folder.glob(f"{depth}evaluation.json")]
    for path in sorted(places):
        if not any(part.endswith((".old", ".partial")) for part in path.relative_to(folder).parts):
            whole = read_checked(path, _SUMMARY, "run that evaluation again")
            for task, one in whole.tasks.items():
                yield Evaluation(task=task, model=whole.model, label=whole.generator, path=path, **vars(one))
