"""The page of the classification experiments, from committed result files alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.evaluation.statistics import holm, paired_t, seed_interval
from grkd.files import read_json, write_text

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
    settings: dict[str, dict[str, Any]]  # label -> the settings that the search chose
    tries: dict[str, int]
    failures: dict[str, str]
    environment: dict[str, Any]

    def seeds(self, label: str, metric: str) -> dict[int, float]:
        return self.values.get(label, {}).get(metric, {})

    def best_baseline(self, column: Column) -> str | None:
        """The baseline of the best mean, of those that have every seed."""
        whole = max((len(self.seeds(label, column.metric)) for label in self.methods), default=0)
        means = {
            label: column.direction * sum(found.values()) / len(found)
            for label, method in self.methods.items()
            if method != OURS and len(found := self.seeds(label, column.metric)) == whole > 0
        }
        return max(means, key=means.__getitem__, default=None)


def write(kept: Path, docs: Path) -> None:
    """docs/results-classification.md and its figure, from every file in `kept`."""
    experiments = [read(path) for path in sorted(kept.glob("*.json"))]
    figure(experiments, docs / "results-classification.svg")
    write_text(docs / "results-classification.md", page(experiments))
    print(f"{docs / 'results-classification.md'}: {len(experiments)} experiments")


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
    tried = [entry["method"] for entry in record["search"]]
    return Experiment(
        name=path.stem,
        title=record["title"],
        methods=methods,
        values=values,
        teacher=teacher,
        settings=record["settings"],
        tries={label: tried.count(label) for label in methods},
        failures={name: text for name, text in record["status"].items() if text != "done"},
        environment=record["environment"],
    )


def page(experiments: Sequence[Experiment]) -> str:
    """The Markdown of all experiments."""
    lines = [
        "# Classification: results",
        "",
        "Made by `python -m benchmarks.classification table` from `benchmarks/results/classification/`. Means over",
        "seeds with the half-width of their 95 % interval (Student t); **bold**: the best mean of a column. Every",
        "method was tuned on a part of the training data with the same number of tries (fewer where it has fewer",
        "settings); the last epoch is measured on the held-out part.",
        "",
        f"## `{OURS}` against the best tuned baseline",
        "",
        "Difference of the means, its 95 % interval, and the p-value of the paired t test over seeds, with Holm's",
        "correction over the rows of a column. The baseline is the best of all other methods *by the same held-out",
        "results*, which favours it.",
        "",
        *_summary(experiments),
        "",
        "![top-1 accuracy by method](results-classification.svg)",
        "",
    ]
    for experiment in experiments:
        lines += [*_section(experiment), ""]
    return "\n".join(lines).rstrip() + "\n"


def comparisons(experiments: Sequence[Experiment], column: Column) -> dict[str, tuple[str, float, float, float, float]]:
    """Experiment -> (baseline, difference, low, high, p after Holm) of OURS, where both have the same seeds."""
    found = {}
    for experiment in experiments:
        baseline, ours = experiment.best_baseline(column), experiment.seeds(OURS, column.metric)
        if baseline is None or not ours:
            continue
        theirs = experiment.seeds(baseline, column.metric)
        seeds = sorted(set(ours) & set(theirs))
        test = paired_t([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
        found[experiment.name] = (baseline, test.difference, test.low, test.high, test.p)
    adjusted = holm([entry[-1] for entry in found.values()])
    return {name: (*entry[:-1], float(p)) for (name, entry), p in zip(found.items(), adjusted, strict=True)}


def verdict(difference: float, p: float, direction: int) -> str:
    """better, worse, or "no difference shown" at 5 %."""
    if math.isnan(p) or p >= 0.05:
        return "no difference shown"
    return "**better**" if difference * direction > 0 else "worse"


def _summary(experiments: Sequence[Experiment]) -> list[str]:
    spoken = [column for column in COLUMNS if column.metric in SPOKEN]
    found = {column.metric: comparisons(experiments, column) for column in spoken}
    table = [["", *(column.head for column in spoken)], ["---"] * (len(spoken) + 1)]
    for experiment in experiments:
        cells = []
        for column in spoken:
            entry = found[column.metric].get(experiment.name)
            cells.append(DASH if entry is None else _compared(entry, column))
        table.append([experiment.title, *cells])
    return _markdown(table)


def _compared(entry: tuple[str, float, float, float, float], column: Column) -> str:
    baseline, difference, low, high, p = entry
    change, *ends = (f"{value * column.scale:+.{column.decimals}f}" for value in (difference, low, high))
    tested = "" if math.isnan(p) else f" [{ends[0]}, {ends[1]}], p = {p:.3f}"
    return f"{change}{tested} against {baseline}: {verdict(difference, p, column.direction)}"


def _section(experiment: Experiment) -> list[str]:
    columns = [
        column for column in COLUMNS if any(experiment.seeds(label, column.metric) for label in experiment.methods)
    ]
    table = [["", *(column.head for column in columns), "tries", "settings chosen"]]
    table.append(["---", *["---:"] * (len(columns) + 1), "---"])
    if experiment.teacher:
        shown = [_number(experiment.teacher.get(column.metric), column) for column in columns]
        table.append(["teacher", *shown, "", ""])
    bests = {column.metric: _best(experiment, column) for column in columns}
    for label in experiment.methods:
        cells = []
        for column in columns:
            text = _cell(experiment.seeds(label, column.metric), column)
            cells.append(f"**{text}**" if bests[column.metric] == label else text)
        chosen = ", ".join(f"{name} {value}" for name, value in experiment.settings.get(label, {}).items())
        table.append([label, *cells, str(experiment.tries[label] or DASH), chosen])
    made = experiment.environment
    where = f"{str(made.get('date'))[:10]}, {made.get('gpu') or made.get('cpu')}, PyTorch {made.get('torch')}"
    failures = [f"- failed: {name}: {text.removeprefix('failed: ')}" for name, text in experiment.failures.items()]
    return [f"## {experiment.title}", "", f"`{experiment.name}` ({where})", "", *_markdown(table), "", *failures]


def _best(experiment: Experiment, column: Column) -> str | None:
    means = {
        label: column.direction * sum(found.values()) / len(found)
        for label in experiment.methods
        if (found := experiment.seeds(label, column.metric))
    }
    return max(means, key=means.__getitem__, default=None)


def _cell(found: Mapping[int, float], column: Column) -> str:
    if not found:
        return DASH
    interval = seed_interval(list(found.values()))
    half = interval.high - interval.mean
    spread = "" if math.isnan(half) else f" ± {half * column.scale:.{column.decimals}f}"
    return f"{_number(interval.mean, column)}{spread}"


def _number(value: float | None, column: Column) -> str:
    return DASH if value is None else f"{value * column.scale:.{column.decimals}f}"


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def figure(experiments: Sequence[Experiment], path: Path) -> None:
    """Top-1 accuracy of every method with its interval, one panel an experiment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    column = COLUMNS[0]
    count = max(1, len(experiments))
    drawn, axes = pyplot.subplots(-(-count // 3), 3, figsize=(13, 2.6 * -(-count // 3)), squeeze=False)
    for axis in axes.flat[len(experiments) :]:
        axis.set_axis_off()
    for axis, experiment in zip(axes.flat, experiments, strict=False):
        labels = [label for label in experiment.methods if experiment.seeds(label, column.metric)]
        for place, label in enumerate(reversed(labels)):
            interval = seed_interval(list(experiment.seeds(label, column.metric).values()))
            half = 0.0 if math.isnan(interval.high) else (interval.high - interval.mean) * column.scale
            colour = "tab:red" if experiment.methods[label] == OURS else "tab:blue"
            axis.errorbar(interval.mean * column.scale, place, xerr=half, fmt="o", color=colour, capsize=3)
        axis.set_yticks(range(len(labels)), reversed(labels))
        axis.set_title(experiment.title, fontsize=9)
        axis.set_xlabel(column.head, fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None})
    pyplot.close(drawn)
