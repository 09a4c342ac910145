"""Curves of what was logged in training, as inline SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grkd.reports._drawing import WIDTH_INCHES, Drawing, short, wrapped
from grkd.reports._svg import colour_of, dash_of, inline
from grkd.reports.results import Curve, Step

_MOST_POINTS = 200
_LEGEND_CHARACTERS = 52  # in a row of the legend, 6 per entry for its line and the gap
_SMOOTH = (
    "Bold lines are smoothed and averaged over seeds; faint lines are single seeds, or the raw values of one seed."
)

Points = list[tuple[float, float]]  # (progress in %, value)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something that is logged in training, and how it is drawn."""

    title: str
    axis: str
    caption: str
    value: Callable[[Step], float | None]
    smooth: bool = True
    log: bool = False


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


def quantities(curves: Sequence[Curve]) -> list[Quantity]:
    heights = "Methods minimise different losses: compare the shapes, not the heights."
    terms = dict.fromkeys(name for curve in curves for step in curve.steps for name in step.terms)
    return [
        Quantity(title="Training loss", axis="loss (nats)", caption=heights, value=lambda step: step.loss_nats),
        *(_term(name) for name in terms),
        Quantity(
            title="Alpha",
            axis="alpha",
            caption="Weight of the group relative loss; the rest is soft targets.",
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


def curves(curves: Sequence[Curve], quantity: Quantity, places: Mapping[str, int]) -> Drawing | None:
    """One bold line per method (the mean over its seeds), its seeds faint behind it."""
    series: dict[str, list[Points]] = {}
    for curve in curves:
        if points := _points(curve, quantity):
            series.setdefault(curve.label, []).append(points)
    if not series:
        return None
    labels, told, handles = sorted(series, key=lambda label: places[label]), [], []
    names = [short(label) for label in labels]
    columns = max(1, min(3, len(labels), _LEGEND_CHARACTERS // (max(map(len, names)) + 6)))
    # A row of the legend adds to the height: it must not take room from the curves.
    figure = Figure(figsize=(WIDTH_INCHES, 2.5 + 0.2 * math.ceil(len(labels) / columns)), layout="constrained")
    axes = figure.subplots()
    for label in labels:
        look = {"color": colour_of(label, places), "linestyle": dash_of(label, places)}
        bold = _draw_method(axes, series[label], look, quantity)
        told.append(f"{label} from {bold[0][1]:.3g} to {bold[-1][1]:.3g}")
        handles.append(Line2D([], [], linewidth=2, **look))
    axes.set_xlabel("training progress (%)")
    axes.set_ylabel(wrapped(quantity.axis, 30))
    if quantity.log:
        _log_axis(axes)
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
    low, high = axes.get_ylim()
    near = high < 100 * low  # further apart, three ticks per power of ten would overprint
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if near else LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)
