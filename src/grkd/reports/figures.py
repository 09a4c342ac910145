"""Figures of a run as inline SVG: values with their intervals, and curves of the training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grkd.metrics.registry import Metric
from grkd.reports._curves import curves, quantities
from grkd.reports._differences import differences
from grkd.reports._drawing import WIDTH_INCHES, Drawing, rows, short, wrapped
from grkd.reports._svg import colour_of, inline, marker_of, style, unique
from grkd.reports.results import BEFORE, Run
from grkd.reports.summary import Line, Summary, summarise
from grkd.reports.tables import bootstrapped, name_of, number
from grkd.reports.verdict import deciding_metric


def palette(runs: Sequence[Run]) -> dict[str, int]:
    """A fixed place in the palette for every label of a page, in order of appearance."""
    labels = dict.fromkeys(label for run in runs for label in run.labels)
    return {label: place for place, label in enumerate(labels)}


def draw(run: Run, *, places: Mapping[str, int] | None = None, prefix: str = "run") -> list[Drawing]:
    """Every figure that the run's files allow; ids inside start with `prefix`, which must be unique in a page."""
    places = palette([run]) if places is None else places
    summary = summarise(run)
    with style():
        deciding = deciding_metric(summary)
        drawings = [differences(run, summary, deciding, places)] if deciding is not None else []
        drawings += [_dots(summary, metric, places) for metric in summary.metrics]
        drawings += [curves(run.curves, quantity, places) for quantity in quantities(run.curves)]
    found = [drawing for drawing in drawings if drawing is not None]
    return [replace(one, svg=unique(one.svg, f"{prefix}-{place}-")) for place, one in enumerate(found, start=1)]


def _dots(summary: Summary, metric: Metric, places: Mapping[str, int]) -> Drawing | None:
    """One row per method: the mean with its interval, each seed as a faint dot, the baseline as a dashed line."""
    lines = [line for line in summary.lines if line.cells[metric.name].mean is not None]
    if metric.against_teacher:  # the teacher agrees with itself; its dot would only stretch the axis
        lines = [line for line in lines if line.kind != "teacher"]
    if summary.baseline != BEFORE:  # nor is an untrained student of use beside students trained without a teacher
        lines = [line for line in lines if line.kind != "before"]
    if not lines or (not metric.direction and _all_equal(lines, metric)):
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.33 * len(lines)), layout="constrained")
    axes = figure.subplots()
    base = summary.line(summary.baseline) if summary.baseline is not None else None
    if base is not None and (value := base.cells[metric.name].mean) is not None:
        axes.axvline(
            value * metric.scale, color=colour_of(base.label, places), linestyle=(0, (4, 3)), alpha=0.6, zorder=1
        )
    for height, line in enumerate(reversed(lines)):
        _dot_row(axes, height, line, metric, places)
    rows(axes, [short(name_of(line.label)) for line in reversed(lines)])
    _value_axis(axes, metric)
    hint = {1: ", higher is better", -1: ", lower is better", 0: ""}[metric.direction]
    label = wrapped(f"{metric.label}{f' ({metric.unit})' if metric.unit else ''}{hint}", 44)
    figure.supxlabel(label, size="medium")  # centred on the figure: names of methods may leave the axes little room
    title = metric.label[0].upper() + metric.label[1:]
    told = "; ".join(f"{name_of(line.label)} {_told(line, metric)}" for line in lines)
    svg = inline(figure, f"{title}{hint}. {told}.")
    return Drawing(title=title, caption="", note=_dots_note(summary, lines, metric), svg=svg, section="results")


def _all_equal(lines: Sequence[Line], metric: Metric) -> bool:
    """Whether every model has the same value, as what depends on the architecture alone."""
    return len(lines) > 1 and len({value for line in lines for value in line.cells[metric.name].values.values()}) == 1


def _value_axis(axes: Any, metric: Metric) -> None:
    """Limits around what is drawn, inside the metric's range, and plain numbers as ticks."""
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    # Nearly equal values: an axis of at least four of the last digit that tables show.
    room = max(0.0, 4 * 10.0**-metric.decimals - (high - low)) / 2
    bounds = metric.clipped((low - room) / metric.scale, (high + room) / metric.scale)
    axes.set_xlim(*(bound * metric.scale for bound in bounds))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    for drawn in axes.get_lines():
        drawn.set_clip_on(False)  # a dot on the edge of the range is drawn in full


def _dot_row(axes: Any, height: int, line: Line, metric: Metric, places: Mapping[str, int]) -> None:
    cell, colour = line.cells[metric.name], colour_of(line.label, places)
    assert cell.mean is not None, line.label
    if cell.interval is not None:
        bounds = [bound * metric.scale for bound in cell.interval]
        axes.plot(bounds, [height, height], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
    if len(cell.values) > 1:
        seeds = [value * metric.scale for value in cell.values.values()]
        axes.plot(seeds, [height - 0.27] * len(seeds), "o", color=colour, markersize=3.2, alpha=0.6, zorder=2)
    marker = marker_of(line.label, places)
    axes.plot([cell.mean * metric.scale], [height], marker, color=colour, markersize=7, zorder=3)


def _dots_note(summary: Summary, lines: Sequence[Line], metric: Metric) -> str:
    cells = [line.cells[metric.name] for line in lines]
    parts = []
    if any(cell.over_seeds and cell.interval is not None for cell in cells):
        parts.append("Bars: 95 % interval over seeds; small dots: single seeds.")
    elif any(cell.interval is not None for cell in cells):
        parts.append(f"Bars: {bootstrapped(summary)}")
    if summary.baseline is not None:
        parts.append(f"Dashed line: {name_of(summary.baseline)}.")
    return " ".join(parts)


def _told(line: Line, metric: Metric) -> str:
    cell = line.cells[metric.name]
    assert cell.mean is not None, line.label
    bounds = cell.interval
    between = f" (95 % interval {number(bounds[0], metric)} to {number(bounds[1], metric)})" if bounds else ""
    return f"{number(cell.mean, metric)}{f' {metric.unit}' if metric.unit else ''}{between}"
