"""What a benchmark is: the object that its file exports as BENCHMARK, and from which everything else is made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.metrics.registry import Metric

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Option:
    """A setting of one benchmark, on the command line `--name` with dashes; Settings.option gives its value."""

    name: str
    help: str
    kind: Callable[[str], Any] = str  # bool: a flag without a value
    default: Any = None
    metavar: str | None = None
    least: int | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric that two models can be compared by, item by item, in a paired test.

    key: of the item's value. weight: key of how many values it is the mean of (None: one).
    right_or_wrong: the value is 0 or 1, so McNemar's test applies.
    """

    metric: Metric
    key: str
    weight: str | None = None
    right_or_wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of `grkd table`.

    name: in CSV and JSON. heading: beside the benchmark's title ("LC"). metrics: the first that the result has.
    scale: from the metric's unit to the unit shown. always: shown even when no model has a value.
    """

    name: str
    metrics: tuple[str, ...]
    heading: str = ""
    unit: str = ""
    scale: float = 1.0
    always: bool = False


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """How finished judgements in a file are scored without a model: `flag` FILE. data: --data, where given."""

    flag: str
    help: str
    score: Callable[[Path, Path | None], Result]

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark of `grkd eval`.

    name: in --tasks and result files. title: for people. order: place in lists and tables, lowest first.
    judged: needs --judge. data_hint: what --data must hold and where to get it (None: needs no --data).
    check: reads the benchmark's files before anything is generated; raises UserError for what is missing or malformed.
    run: a model's result: "metrics" (name -> value, low, high), "items" (one record per question, for paired tests),
    "conditions" (what must be equal in two results for a comparison to mean anything), and counts and notes.
    measures: what is compared item by item. columns: of `grkd table`. options: of this benchmark alone.
    note: what a reader must know about the paired comparisons.
    own_prompts: it renders prompts in a way that --chat-template-kwargs does not reach.
    """

    name: str
    title: str
    check: Callable[["Settings"], None]
    run: Callable[["Session"], Result]
    measures: tuple[Measure, ...] = ()
    judged: bool = False
    data_hint: str | None = None
    columns: tuple[Column, ...] = ()
    options: tuple[Option, ...] = ()
    order: int = 100
    from_file: FromFile | None = None
    note: str | None = None
    own_prompts: bool = False
