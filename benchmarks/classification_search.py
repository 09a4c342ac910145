"""The page's section on the search: how far its choices can be trusted."""

from collections.abc import Sequence

from scipy import stats

from benchmarks._classification_results import COLUMNS, DASH, Column, Experiment, markdown
from grkd.compare.search import at_edge, share_of_grid

NOT_MEASURED = "not measured"
LABELS = "ce"  # the method without a teacher: far behind, it would make any search look good


def section(experiments: Sequence[Experiment]) -> list[str]:
    """The Markdown: per experiment, agreement of validation and test, and picks at an edge of their range."""
    if not experiments:
        return []
    table = [["", "Spearman of validation and test", "methods", "picks at an edge of their range"]]
    table.append(["---", "---:", "---:", "---"])
    for experiment in experiments:
        found, count = agreement(experiment), len(_pairs(experiment))
        shown = NOT_MEASURED if found is None else f"{found:+.2f}"
        table.append([experiment.title, shown, str(count), _edges(experiment)])
    return [
        "## The search",
        "",
        f"Spearman's correlation, over the methods of an experiment that have a teacher (all but `{LABELS}`), between",
        "the best value on the search's validation part and the mean of the same metric on the held-out part. Near 0,",
        "a better validation value says nothing about the held-out part. A chosen setting at the lowest or highest",
        "value of its range (of three or more values) may have a better one beyond it.",
        "",
        *markdown(table),
        "",
    ]


def agreement(experiment: Experiment) -> float | None:
    """Spearman's correlation, in [-1, 1]; None for fewer than three methods, or if all have the same value."""
    pairs = _pairs(experiment)
    validation, test = [one for one, _ in pairs], [other for _, other in pairs]
    if len(pairs) < 3 or len(set(validation)) == 1 or len(set(test)) == 1:
        return None
    return float(stats.spearmanr(validation, test).statistic)


def shown_trials(experiment: Experiment, label: str) -> str:
    """A method's number of trials, and the share of its grid that they cover."""
    count, space = experiment.tries[label], experiment.spaces.get(label)
    if not count:
        return DASH
    return str(count) if space is None else f"{count} ({100 * share_of_grid(space, count):.0f} %)"


def edges(experiment: Experiment, label: str) -> list[str]:
    """The settings of a method that its search chose at an edge of their range."""
    space = experiment.spaces.get(label)
    return [] if space is None or not experiment.tries[label] else at_edge(space, experiment.settings.get(label, {}))


def _edges(experiment: Experiment) -> str:
    places: dict[str, list[str]] = {}
    for label in experiment.methods:
        for name in edges(experiment, label):
            places.setdefault(name, []).append(label)
    return "; ".join(f"{name}: {', '.join(labels)}" for name, labels in places.items()) or DASH


def _pairs(experiment: Experiment) -> list[tuple[float, float]]:
    """(validation, test) per method, of what the search goes by; higher is better in both."""
    column = next((column for column in COLUMNS if column.metric == experiment.searched_by), None)
    if column is None:
        return []
    means = experiment.means(column)
    taught = [label for label, method in experiment.methods.items() if method != LABELS and label in means]
    best = {label: _best(experiment, label, column) for label in taught}
    return [
        (column.direction * value, column.direction * means[label])
        for label, value in best.items()
        if value is not None
    ]


def _best(experiment: Experiment, label: str, column: Column) -> float | None:
    values = experiment.validated.get(label, [])
    return None if not values else max(values) if column.direction > 0 else min(values)
