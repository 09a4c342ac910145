"""Kept results of the classification experiments, read back, and how their metrics are written."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.compare.search import Space
from grkd.files import read_json
from grkd.statistics import PairedDifference, seed_interval

OURS = "grkd"  # the label of the default; its variants are other labels of the method of that name


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metric as the page shows it. direction: 1 more is better, -1 less."""

    metric: str
    head: str
    direction: int
    scale: float = 1.0
    decimals: int = 3


COLUMNS = (
    Column(metric="accuracy", head="top-1 %", direction=1, scale=100, decimals=2),
    Column(metric="top5_accuracy", head="top-5 %", direction=1, scale=100, decimals=2),
    Column(metric="nll_nats", head="NLL (nats)", direction=-1),
    Column(metric="ece", head="ECE %", direction=-1, scale=100, decimals=2),
    Column(metric="brier", head="Brier", direction=-1),
    Column(metric="kendall_tau", head="tau with teacher", direction=1),
    Column(metric="pair_accuracy", head="pairs as teacher %", direction=1, scale=100, decimals=2),
    Column(metric="votes_kendall_tau", head="tau with people", direction=1),
    Column(metric="within_group_accuracy/look-alikes", head="among look-alikes %", direction=1, scale=100, decimals=2),
    Column(metric="outside_auroc", head="out-of-scope AUROC", direction=1),
)
DASH = "\u2013"
SPOKEN = ("accuracy", "nll_nats", "kendall_tau", "votes_kendall_tau")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One data set and student: label -> metric -> seed -> value, in the order of the recipe."""

    name: str
    title: str
    methods: dict[str, str]  # label -> method
    values: dict[str, dict[str, dict[int, float]]]
    teacher: dict[str, float]
    settings: dict[str, dict[str, Any]]  # label -> all options that its recipe or its search set, and learning_rate
    searched: dict[str, list[str]]  # label -> the options that its search chose
    tries: dict[str, int]
    failures: dict[str, str]
    environment: dict[str, Any]
    spaces: dict[str, Space]  # label -> the values that its search could choose from, of experiments with a search
    validated: dict[str, list[float]]  # label -> the values of its trials on the search's validation part
    searched_by: str  # the search's metric

    def seeds(self, label: str, metric: str) -> dict[int, float]:
        return self.values.get(label, {}).get(metric, {})

    def chosen(self, label: str) -> dict[str, Any]:
        """The learning rate and the options that the search chose."""
        names = ["learning_rate", *self.searched.get(label, [])]
        return {name: value for name, value in self.settings.get(label, {}).items() if name in names}

    def constant(self, label: str) -> dict[str, Any]:
        """The options that the recipe set and the search left alone."""
        chosen = self.chosen(label)
        return {name: value for name, value in self.settings.get(label, {}).items() if name not in chosen}

    def means(self, column: Column) -> dict[str, float]:
        """label -> mean over seeds, of those that have every seed."""
        found = {label: self.seeds(label, column.metric) for label in self.methods}
        whole = max((len(values) for values in found.values()), default=0)
        return {label: sum(values.values()) / whole for label, values in found.items() if len(values) == whole > 0}

    def best_baseline(self, column: Column) -> str | None:
        """The baseline of the best mean, of those that have every seed."""
        means = {k: column.direction * v for k, v in self.means(column).items() if self.methods[k] != OURS}
        return max(means, key=means.__getitem__, default=None)


def read(path: Path) -> Experiment:
    """A kept result file."""
    record = read_json(path)
    values: dict[str, dict[str, dict[int, float]]] = {}
    teacher: dict[str, float] = {}
    methods = {}
    for row in record["rows"]:
        if row["label"] == "teacher":
            teacher[row["metric"]] = row["value"]
            continue
        methods[row["label"]] = row["method"]
        if row["value"] is not None:
            values.setdefault(row["label"], {}).setdefault(row["metric"], {})[row["seed"]] = row["value"]
    search = record["recipe"].get("search") or {}
    searched = search.get("options", {})
    tried = [entry["method"] for entry in record["search"]]
    validated: dict[str, list[float]] = {}
    for entry in record["search"]:
        if entry.get("value") is not None:
            validated.setdefault(entry["method"], []).append(entry["value"])
    rates = search.get("learning_rate") or [record["recipe"].get("training", {}).get("learning_rate")]
    return Experiment(
        name=path.stem,
        title=record["title"],
        methods=methods,
        values=values,
        teacher=teacher,
        settings=record["settings"],
        searched={label: list(options) for label, options in searched.items()},
        tries={label: tried.count(label) for label in methods},
        failures={name: text for name, text in record["status"].items() if text != "done"},
        environment=record["environment"],
        spaces={label: {"learning_rate": rates, **searched.get(label, {})} for label in methods} if search else {},
        validated=validated,
        searched_by=search.get("metric") or "accuracy",
    )


def cell(found: Mapping[int, float], column: Column) -> str:
    """The mean over seeds and the half-width of its 95 % interval."""
    if not found:
        return DASH
    interval = seed_interval(list(found.values()))
    half = interval.high - interval.mean
    spread = "" if math.isnan(half) else f" ± {half * column.scale:.{column.decimals}f}"
    return f"{number(interval.mean, column)}{spread}"


def number(value: float | None, column: Column) -> str:
    return DASH if value is None else f"{value * column.scale:.{column.decimals}f}"


def shown_options(options: Mapping[str, Any]) -> str:
    """name value, ... as a recipe writes them."""
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items())


def shown_p(p: float) -> str:
    """A p-value in words; never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def shown_difference(test: PairedDifference, column: Column) -> str:
    """+0.42 [-0.38, +1.22], p = 0.888; the difference alone where there is no test."""
    change, low, high = (f"{value * column.scale:+.{column.decimals}f}" for value in test[:3])
    return change if math.isnan(test.p) else f"{change} [{low}, {high}], {shown_p(test.p)}"


def origin(experiment: Experiment) -> str:
    """Name, date and machine."""
    made = experiment.environment
    where = f"{str(made.get('date'))[:10]}, {made.get('gpu') or made.get('cpu')}, PyTorch {made.get('torch')}"
    return f"`{experiment.name}` ({where})"


def shown_failures(experiment: Experiment) -> list[str]:
    """A line for each run that failed."""
    return [f"- failed: {name}: {text.removeprefix('failed: ')}" for name, text in experiment.failures.items()]


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table]
