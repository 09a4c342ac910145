"""A run folder, read into typed records. What is missing is named in `Run.missing`; nothing is made up."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, TypeAdapter, ValidationError

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

BEFORE = "before"  # the student before distillation
TEACHER = "teacher"
_LONGEST_NAME = 200  # of a method's label or a metric

Task = Literal["language_model", "classifier", "rank"]
Kind = TypeVar("Kind")


# NaN and infinity count as no value.
Value = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]


def _shown(text: str) -> str:
    if re.search("[\ud800-\udfff\0]", text):
        raise ValueError("must be characters that can be shown")
    return text


def _named(name: str) -> str:
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise ValueError(f"must be 1 to {_LONGEST_NAME} characters that can be shown")
    return name


Text = Annotated[str, AfterValidator(_shown)]
Name = Annotated[Text, AfterValidator(_named)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value; `low` and `high` bound its 95 % bootstrap interval."""

    method: Name
    metric: Name
    seed: int | None = None
    value: Value = None
    low: Value = None
    high: Value = None
    steps: int | None = None
    seconds: Value = None
    rows_seen: int | None = None  # in training: tokens of responses, or examples
    seconds_per_step: dict[str, Value] = field(default_factory=dict)  # sample, rank, train; where it samples


@dataclass(frozen=True, kw_only=True)
class Step:
    """One logged optimiser step; `progress` runs from 0 to 1."""

    step: int
    progress: Value = None
    loss_nats: Value = None
    alpha: Value = None
    gradient_norm: Value = None
    terms: dict[str, Value] = field(default_factory=dict)
    crossing: dict[str, Value] = field(default_factory=dict)  # shares, beside a teacher of another vocabulary


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one method logged while it trained with one seed, steps rising."""

    label: str
    seed: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt and its answers by "teacher", "before" and label.

    messages: the whole conversation before the answer. cut: whose answers the limit of length cut.
    """

    prompt: str
    answers: dict[str, str]
    messages: tuple[dict[str, Any], ...] = ()
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run folder holds so far."""

    folder: Path
    title: str
    task: Task | None
    method_names: dict[str, str]  # label -> method, in the order of the recipe
    status: dict[str, str]  # "<label>-seed<k>" -> "done" or "failed: reason"
    counts: dict[str, int]
    costs: dict[str, dict[str, Value]]  # "teacher", "before" or label -> what it costs to use
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    samples: tuple[Sample, ...]
    environment: dict[str, Any]
    recipe: str
    missing: tuple[str, ...]
    arguments: str = ""  # of a GRKDTrainer, in place of a recipe

    @property
    def labels(self) -> tuple[str, ...]:
        """Every method's label: the recipe's order, then the order of appearance."""
        found = [*self.method_names, *(curve.label for curve in self.curves), *(row.method for row in self.rows)]
        found += [split_name(name)[0] for name in self.status]
        return tuple(label for label in dict.fromkeys(found) if label not in (BEFORE, TEACHER))

    def seeds(self, label: str) -> tuple[int, ...]:
        """The seeds that were tried for a label, whether they ended well or not."""
        tried = {seed for name, seed in map(split_name, self.status) if name == label and seed is not None}
        return tuple(sorted(tried | {row.seed for row in self.rows if row.method == label and row.seed is not None}))

    def has(self, name: str) -> bool:
        """Whether what lies under a student's name belongs to the run: an earlier recipe's may lie beside it."""
        if split_name(name)[1] is None or not self.method_names:  # the student before, or a GRKDTrainer's
            return True
        if self.status.get(name, "done") != "done":
            return False  # and what it has left has older settings
        return name in self.status or name in _final_names(self.recipe)

    def evaluated(self, file: str) -> Iterator[tuple[str, int | None, Path]]:
        """Label, seed and path of the models whose evaluation left this file."""
        for path in sorted((self.folder / "evaluate").glob(f"*/{file}")):
            label, seed = split_name(path.parent.name)
            if self.has(path.parent.name) and label in (BEFORE, TEACHER, *self.labels):
                yield label, seed, path

    @property
    def without_results(self) -> str:
        """What stands in place of a table that has no figure: nothing was measured yet, or nothing could be."""
        over = bool(self.status) and not self.failures and "results.json" not in self.missing
        if over and self.task == "language_model":
            return "Nothing was measured: the teacher's signal gives no metric. Add evaluation.questions and run again."
        return "No results yet."

    @property
    def failures(self) -> dict[str, str]:
        """ "<label>-seed<k>" -> reason."""
        return {
            name: text.removeprefix("failed").lstrip(": ") or "no reason given"
            for name, text in self.status.items()
            if text.startswith("failed")
        }


@dataclass(frozen=True, kw_only=True)
class _Results:
    task: Task
    title: Text = ""
    rows: tuple[Row, ...] = ()
    status: dict[Text, Text] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    costs: dict[str, dict[str, Value]] = field(default_factory=dict)


_RESULTS = TypeAdapter(_Results).validate_python
_ENVIRONMENT = TypeAdapter(dict[str, Any]).validate_python
_SAMPLES = TypeAdapter(tuple[Sample, ...]).validate_python
_STEP = TypeAdapter(Step).validate_python


def read_run(folder: Path) -> Run:
    """The run in a folder, finished or not. Raises UserError for a broken file, or where there is no run at all."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that a recipe's `output` names")
    recipe_text, recipe = _read_recipe(folder / "recipe.yaml")
    results = _read(folder / "results.json", _RESULTS)
    environment = _read(folder / "environment.json", _ENVIRONMENT)
    curves = tuple(_read_curves(folder / "train"))
    samples = _read(folder / "evaluate" / "samples.json", _SAMPLES)
    path = folder / "arguments.yaml"
    arguments = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not (recipe or results or environment or curves or samples):
        raise UserError(f"{folder}: holds no run (no recipe.yaml, no results.json); give a recipe's `output` folder")
    task: Any = results.task if results else recipe.get("task")
    found = results or _Results(task="rank")  # whose task is not read
    names = {*_final_names(recipe_text), *found.status} if _method_names(recipe) else None
    present = {
        "recipe.yaml": bool(recipe or arguments),
        "environment.json": environment is not None,
        "results.json": results is not None,
        "train/*/metrics.jsonl": bool(curves),
        "evaluate/samples.json": samples is not None or task != "language_model" or bool(arguments),
    }
    return Run(
        folder=folder,
        title=found.title or str(recipe.get("title") or folder.resolve().name),
        task=task if task in get_args(Task) else None,
        method_names=_method_names(recipe),
        status=found.status,
        counts=found.counts,
        costs=found.costs,
        rows=found.rows,
        curves=tuple(one for one in curves if names is None or f"{one.label}-seed{one.seed}" in names),
        samples=samples or (),
        environment=environment or {},
        recipe=recipe_text,
        arguments=arguments,
        missing=tuple(name for name, there in present.items() if not there),
    )


def split_name(name: str) -> tuple[str, int | None]:
    """ "grkd-seed3" -> ("grkd", 3); a name without a seed keeps its text."""
    label, mark, seed = name.rpartition("-seed")
    return (label, int(seed)) if mark and seed.isascii() and seed.isdigit() else (name, None)


def _read(path: Path, check: Callable[[Any], Kind]) -> Kind | None:
    """A JSON file, checked, or None if there is none."""
    return read_checked(path, check, "remove it and run that stage again") if path.is_file() else None


def read_checked(path: Path, check: Callable[[Any], Kind], remedy: str) -> Kind:
    """A JSON file, checked. Raises UserError that ends with the remedy for one that is damaged."""
    try:
        return _checked(path, parse_json(path.read_bytes(), strict=False), check, remedy)
    except NotJSON as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from error


def _checked(where: object, value: Any, check: Callable[[Any], Kind], remedy: str) -> Kind:
    try:
        return check(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{where}: {key}: {first['msg']}; {remedy}") from error


def _read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{path}: not a recipe; its top level must hold keys such as `task` and `methods`")
    return text, {str(key): value for key, value in recipe.items()}


def _method_names(recipe: dict[str, Any]) -> dict[str, str]:
    methods = recipe.get("methods")
    names = {}
    for method in methods if isinstance(methods, list) else []:
        name = method.get("name", "") if isinstance(method, dict) else method
        label = method.get("label") or name if isinstance(method, dict) else method
        if label:
            names[str(label)] = str(name or label)
    return names


@cache
def _final_names(recipe: str) -> frozenset[str]:
    """ "<label>-seed<k>" of every final run that a recipe asks for."""
    read = yaml.safe_load(recipe)
    seeds = read.get("seeds") or [0]
    return frozenset(f"{label}-seed{seed}" for label in _method_names(read) for seed in seeds)


def _read_curves(folder: Path) -> Iterable[Curve]:
    for path in sorted(folder.glob("*/metrics.jsonl")):
        if path.parent.suffix == ".partial" and path.parent.with_suffix("").is_dir():
            continue  # the training is rebuilt; the page shows the one that is complete
        label, seed = split_name(path.parent.name.removesuffix(".partial"))
        if seed is not None and (steps := _read_steps(path)):
            yield Curve(label=label, seed=seed, steps=steps)


def _read_steps(path: Path) -> tuple[Step, ...]:
    """The last record of each step: training that was continued logs the steps after its checkpoint again."""
    steps, remedy = dict[int, Step](), "remove the file and run that stage again"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            step = _checked(f"{path} line {number}", parse_json(line, strict=False), _STEP, remedy)
        except NotJSON as error:
            if number == len(lines):  # the line being written when the run was stopped
                break
            raise UserError(f"{path} line {number}: not valid JSON ({error}); remove that line") from error
        steps[step.step] = step
    return tuple(steps[key] for key in sorted(steps))
