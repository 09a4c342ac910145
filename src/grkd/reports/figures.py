"""Figures of a run as inline SVG: values with their intervals, and curves of the training."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from grkd.metrics.registry import Metric
from grkd.reports._svg import colour_of, dash_of, inline, marker_of, style, unique
from grkd.reports.results import BEFORE, Curve, Run, Step
from grkd.reports.summary import Line, Summary, summarise
from grkd.reports.tables import name_of, number

_WIDTH_INCHES, _MOST_POINTS = 4.0, 200
_LEGEND_CHARACTERS = 52  # in a row of the legend, 6 per entry for its line and the gap
_SMOOTH = (
    "Bold lines are smoothed and averaged over seeds; faint lines are single seeds, or the raw values of one seed."
)

Points = list[tuple[float, float]]  # (progress in %, value)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure; `caption` is its own, `note` is the same for its whole section and told there once."""

    title: str
    caption: str
    note: str
    svg: str
    section: Literal["results", "training"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is logged in training, and how it is drawn."""

    title: str
    axis: str
    caption: str
    value: Callable[[Step], float | None]
    smooth: bool = True
    log: bool = False


def palette(runs: Sequence[Run]) -> dict[str, int]:
    """A fixed place in the palette for every label of a page, in order of appearance."""
    labels = dict.fromkeys(label for run in runs for label in run.labels)
    return {label: place for place, label in enumerate(labels)}


def draw(run: Run, *, places: Mapping[str, int] | None = None, prefix: str = "run") -> list[Drawing]:
    """Every figure that the run's files allow; ids inside start with `prefix`, which must be unique in a page."""
    places = palette([run]) if places is None else places
    summary = summarise(run)
    with style():
        drawings = [_dots(summary, metric, places) for metric in summary.metrics]
        drawings += [_curves(run.curves, quantity, places) for quantity in _quantities(run.curves)]
    found = [drawing for drawing in drawings if drawing is not None]
    return [replace(one, svg=unique(one.svg, f"{prefix}-{place}-")) for place, one in enumerate(found, start=1)]


def smoothed(points: Points, share: float = 0.06) -> Points:
    """A centred moving average over about `share` of the points; at the ends the window shrinks on both sides alike,
    so that the curve lags nowhere and starts and ends at its own first and last value."""
    reach, last = round(share * len(points) / 2), len(points) - 1
    sums = list(accumulate((value for _, value in points), initial=0.0))
    result = []
    for index, (place, _) in enumerate(points):
        half = min(reach, index, last - index)
        result.append((place, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return result


def _short(label: str) -> str:
    """A label that leaves room for the figure itself, and that matplotlib does not hide (a leading underscore)."""
    text = label if len(label) <= 22 else f"{label[:21]}…"
    return f"\u200b{text}" if text.startswith("_") else text


def _dots(summary: Summary, metric: Metric, places: Mapping[str, int]) -> Drawing | None:
    """One row a method: the mean with its interval, each seed as a faint dot, the baseline as a dashed line."""
    lines = [line for line in summary.lines if line.cells[metric.name].mean is not None]
    if metric.against_teacher:  # the teacher agrees with itself; its dot would only stretch the axis
        lines = [line for line in lines if line.kind != "teacher"]
    if summary.baseline != BEFORE:  # nor is an untrained student of use beside students trained without a teacher
        lines = [line for line in lines if line.kind != "before"]
    if not lines:
        return None
    figure = Figure(figsize=(_WIDTH_INCHES, 0.9 + 0.33 * len(lines)), layout="constrained")
    axes = figure.subplots()
    base = summary.line(summary.baseline) if summary.baseline is not None else None
    if base is not None and (value := base.cells[metric.name].mean) is not None:
        axes.axvline(
            value * metric.scale, color=colour_of(base.label, places), linestyle=(0, (4, 3)), alpha=0.6, zorder=1
        )
    for height, line in enumerate(reversed(lines)):
        _dot_row(axes, height, line, metric, places)
    axes.set_yticks(range(len(lines)), [_short(name_of(line.label)) for line in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    _value_axis(axes, metric)
    hint = {1: ", higher is better", -1: ", lower is better", 0: ""}[metric.direction]
    label = _wrapped(f"{metric.label}{f' ({metric.unit})' if metric.unit else ''}{hint}", 44)
    figure.supxlabel(label, size="medium")  # centred on the figure: names of methods may leave the axes little room
    title = metric.label[0].upper() + metric.label[1:]
    told = "; ".join(f"{name_of(line.label)} {_told(line, metric)}" for line in lines)
    svg = inline(figure, f"{title}{hint}. {told}.")
    return Drawing(title=title, caption="", note=_dots_note(summary, lines, metric), svg=svg, section="results")


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


def _wrapped(text: str, characters: int) -> str:
    """An axis label in at most three lines of so many characters."""
    return "\n".join(textwrap.wrap(text, characters, max_lines=3, placeholder=" …", break_on_hyphens=False))


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
        parts.append(
            "Bars: 95 % bootstrap interval over the held-out prompts or examples; the choice of seed is not in it."
        )
    if summary.baseline is not None:
        parts.append(f"Dashed line: {name_of(summary.baseline)}.")
    return " ".join(parts)


def _told(line: Line, metric: Metric) -> str:
    cell = line.cells[metric.name]
    assert cell.mean is not None, line.label
    bounds = cell.interval
    between = f" (95 % interval {number(bounds[0], metric)} to {number(bounds[1], metric)})" if bounds else ""
    return f"{number(cell.mean, metric)}{f' {metric.unit}' if metric.unit else ''}{between}"


def _quantities(curves: Sequence[Curve]) -> list[Quantity]:
    heights = "Methods minimise different losses: compare the shapes, not the heights."
    terms = dict.fromkeys(name for curve in curves for step in curve.steps for name in step.terms)
    return [
        Quantity(title="Training loss", axis="loss (nats)", caption=heights, value=lambda step: step.loss_nats),
        *(_term(name) for name in terms),
        Quantity(
            title="Alpha",
            axis="alpha",
            caption="Share of the group relative loss; the rest is soft targets.",
            value=lambda step: step.alpha,
            smooth=False,
        ),
        Quantity(
            title="Gradient norm",
            axis="gradient norm",
            caption="Logarithmic axis.",
            value=lambda step: step.gradient_norm,
            log=True,
        ),
    ]


def _term(name: str) -> Quantity:
    words = name.replace("_", " ")
    return Quantity(
        title=f"Term: {words}",
        axis=f"{words} (nats)",
        caption="",
        value=lambda step: step.terms.get(name),
    )


def _curves(curves: Sequence[Curve], quantity: Quantity, places: Mapping[str, int]) -> Drawing | None:
    """One bold line a method (the mean over its seeds), its seeds faint behind it."""
    series: dict[str, list[Points]] = {}
    for curve in curves:
        if points := _points(curve, quantity):
            series.setdefault(curve.label, []).append(points)
    if not series:
        return None
    figure = Figure(figsize=(_WIDTH_INCHES, 2.6 + 0.2 * math.ceil(len(series) / 3)), layout="constrained")
    axes = figure.subplots()
    labels, told, handles = sorted(series, key=lambda label: places[label]), [], []
    for label in labels:
        look = {"color": colour_of(label, places), "linestyle": dash_of(label, places)}
        bold = _draw_method(axes, series[label], look, quantity)
        told.append(f"{label} from {bold[0][1]:.3g} to {bold[-1][1]:.3g}")
        handles.append(Line2D([], [], linewidth=2, **look))
    axes.set_xlabel("training progress (%)")
    axes.set_ylabel(_wrapped(quantity.axis, 30))
    if quantity.log:
        _log_axis(axes)
    names = [_short(label) for label in labels]
    columns = max(1, min(3, len(labels), _LEGEND_CHARACTERS // (max(map(len, names)) + 6)))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=1.8, borderpad=0)
    svg = inline(figure, f"{quantity.title} over the progress of training. {'; '.join(told)}.")
    return Drawing(title=quantity.title, caption=quantity.caption, note=_SMOOTH, svg=svg, section="training")


def _points(curve: Curve, quantity: Quantity) -> Points:
    last = max(1, curve.steps[-1].step)
    points = []
    for step in curve.steps:
        value = quantity.value(step)
        if value is not None and (value > 0 or not quantity.log):
            points.append((100 * (step.step / last if step.progress is None else step.progress), value))
    return points


def _draw_method(axes: Any, seeds: Sequence[Points], look: dict[str, Any], quantity: Quantity) -> Points:
    soft = [smoothed(points) if quantity.smooth else points for points in seeds]
    faint = soft if len(seeds) > 1 else seeds if quantity.smooth else []
    for points in faint:
        axes.plot(*_columns(points), linewidth=0.9, alpha=0.3, **look)
    bold = _mean(soft)
    axes.plot(*_columns(bold), linewidth=1.9, **look)
    return bold


def _mean(seeds: Sequence[Points]) -> Points:
    """The mean over seeds at the places that all of them logged; the longest seed where they share none."""
    found = [dict(points) for points in seeds]
    shared = [place for place in found[0] if all(place in values for values in found)]
    if not shared:
        return max(seeds, key=len)
    return [(place, sum(values[place] for values in found) / len(found)) for place in shared]


def _columns(points: Points) -> tuple[list[float], list[float]]:
    """x and y of at most _MOST_POINTS points, the first and the last among them: pages stay small."""
    if len(points) > _MOST_POINTS:
        last = len(points) - 1
        points = [points[round(place * last / (_MOST_POINTS - 1))] for place in range(_MOST_POINTS)]
    return [place for place, _ in points], [value for _, value in points]


def _log_axis(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)
