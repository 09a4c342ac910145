"""The page's section on ablations: one setting of `grkd`, and what each change makes of it."""

from collections.abc import Sequence

from benchmarks._classification_results import (
    COLUMNS,
    DASH,
    OURS,
    Experiment,
    cell,
    markdown,
    origin,
    shown_difference,
    shown_failures,
    shown_options,
)
from grkd.statistics import PairedDifference, holm, paired_t

METRICS = ("accuracy", "nll_nats", "kendall_tau")
_MEASURED = tuple(column for column in COLUMNS if column.metric in METRICS)


def is_ablation(experiment: Experiment) -> bool:
    """By its name: its rows are no tuned methods, so it enters no comparison of methods."""
    return experiment.name.startswith("ablation-")


def differences(experiment: Experiment) -> dict[str, PairedDifference]:
    """label -> top-1 minus that of OURS, paired over the seeds of both (Student t); p with Holm's correction."""
    ours = experiment.seeds(OURS, "accuracy")
    found = {}
    for label in experiment.methods:
        theirs = experiment.seeds(label, "accuracy")
        seeds = sorted(set(ours) & set(theirs))
        if label != OURS and seeds:
            found[label] = paired_t([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
    adjusted = holm([test.p for test in found.values()])
    return {label: test._replace(p=float(p)) for (label, test), p in zip(found.items(), adjusted, strict=True)}


def section(experiments: Sequence[Experiment]) -> list[str]:
    """The page's lines; none without ablations."""
    if not experiments:
        return []
    lines = [
        "## Ablation",
        "",
        f"Each row changes one fixed setting of `{OURS}` as named, without a new search. The difference to `{OURS}` in",
        "top-1 has its 95 % interval and the p-value of the paired t test over seeds, with Holm's correction over the",
        "rows of a table.",
        "",
    ]
    for experiment in experiments:
        lines += [
            f"### {experiment.title}",
            "",
            origin(experiment),
            "",
            f"`{OURS}`: {shown_options(experiment.settings.get(OURS, {}))}",
            "",
            *markdown(_table(experiment)),
            "",
            *shown_failures(experiment),
            "",
        ]
    return lines


def _table(experiment: Experiment) -> list[list[str]]:
    found = differences(experiment)
    top1 = _MEASURED[0]
    table = [["", "changed", *(column.head for column in _MEASURED), f"{top1.head}, difference to {OURS}"]]
    table.append(["---", "---", *["---:"] * len(_MEASURED), "---"])
    for label in experiment.methods:
        cells = [cell(experiment.seeds(label, column.metric), column) for column in _MEASURED]
        shown = shown_difference(found[label], top1) if label in found else ""
        table.append([label, _changed(experiment, label), *cells, shown or DASH])
    return table


def _changed(experiment: Experiment, label: str) -> str:
    """Options that differ from those of OURS; of another method, its name and its own options."""
    settings, ours = experiment.settings.get(label, {}), experiment.settings.get(OURS, {})
    if experiment.methods[label] != OURS:
        own = {name: value for name, value in settings.items() if name != "learning_rate"}
        return shown_options({"method": experiment.methods[label], **own})
    return shown_options({name: value for name, value in settings.items() if ours.get(name) != value})
