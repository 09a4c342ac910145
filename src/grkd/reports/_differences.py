"""One picture for the verdict: every method less the best baseline, with the intervals of the paired differences."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grkd.metrics.registry import Metric
from grkd.reports._drawing import WIDTH_INCHES, Drawing, rows, short, wrapped
from grkd.reports._svg import INK, colour_of, inline, marker_of
from grkd.reports.results import BEFORE, Run
from grkd.reports.seeds import half_width
from grkd.reports.summary import Summary, paired_values
from grkd.reports.tables import name_of, number

OURS = "grkd"


def best_baseline(run: Run, summary: Summary, metric: Metric) -> str | None:
    """The method with the best mean that is not grkd; the student before if there is none."""
    means = {line.label: line.cells[metric.name].mean for line in summary.methods}
    rivals = {
        label: mean for label, mean in means.items() if mean is not None and run.method_names.get(label, label) != OURS
    }
    if len([mean for mean in means.values() if mean is not None]) > 1 and rivals:
        return max(rivals, key=lambda label: rivals[label] * metric.direction)
    before = summary.line(BEFORE)
    return BEFORE if before is not None and before.cells[metric.name].mean is not None else None


def differences(run: Run, summary: Summary, metric: Metric, places: Mapping[str, int]) -> Drawing | None:
    """A row per method, the best at the top; a bar: 95 % Student t interval over the seeds that both have."""
    base = best_baseline(run, summary, metric)
    line = summary.line(base) if base is not None else None
    if base is None or line is None:
        return None
    theirs = line.cells[metric.name].values
    found = {
        each.label: values
        for each in summary.methods
        if each.label != base and (values := paired_values(each.cells[metric.name].values, theirs))
    }
    if not found:
        return None
    means = {label: sum(values) / len(values) for label, values in found.items()}
    labels = sorted(found, key=lambda label: means[label] * metric.direction)
    figure = Figure(figsize=(WIDTH_INCHES * 1.2, 0.9 + 0.33 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color=INK, linewidth=1.2, zorder=1)
    told = []
    for height, label in enumerate(labels):
        half, colour = half_width(found[label]), colour_of(label, places)
        middle = means[label] * metric.scale
        if half is not None:
            bounds = [(means[label] + side * half) * metric.scale for side in (-1, 1)]
            axes.plot(bounds, [height, height], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
        axes.plot([middle], [height], marker_of(label, places), color=colour, markersize=7, zorder=3)
        spread = "" if half is None else f" \u00b1 {number(half, metric)}"
        told.append(f"{label} {number(means[label], metric, sign=True)}{spread}")
    rows(axes, [short(name_of(label)) for label in labels])
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=3))
    unit = "points" if metric.unit == "%" else metric.unit
    side = "right is better" if metric.direction > 0 else "left is better"
    text = f"{metric.label}, difference to {name_of(base)}{f' ({unit})' if unit else ''}; {side}"
    figure.supxlabel(wrapped(text, 52), size="medium")
    bars = any(half_width(values) is not None for values in found.values())
    origin = "the best of the other methods" if base != BEFORE else "from which all methods started"
    caption = f"Line: {name_of(base)}, {origin}."
    if bars:
        caption += " Bars: 95 % interval of the difference, paired over seeds, not corrected for multiple comparisons."
    svg = inline(figure, f"Differences in {metric.label} to {name_of(base)}. {'; '.join(reversed(told))}.")
    return Drawing(title=f"Against {name_of(base)}", caption=caption, note="", svg=svg, section="verdict")
