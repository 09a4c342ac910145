"""Validation questions over the time of training: the figure, and whether the curves are flat at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._on_policy_tests import OURS, Found, by_label, table

FLAT_POINTS = 1.0  # of exact match in a third of the training
WANTED_STEPS = 1000  # of every run, or until the curves are flat


def write_curves(found: Found, path: Path) -> None:
    """Exact match over seconds of training, a line per method: the mean over its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = OURS  # the same results make the same file
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(9, 5))
    for place, (label, runs) in enumerate(by_label(found).items()):
        seconds, values = _mean_curve([run["curve"] for run in runs])
        style = {"linewidth": 2.2} if label.startswith(OURS) else {"linewidth": 1.3, "linestyle": "--"}
        axes.plot(seconds, 100 * values, label=label, color=f"C{place}", **style)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("exact match on validation questions (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None}, facecolor="white")
    pyplot.close(drawn)


def flattening(found: Found) -> str:
    """Of each method, how exact match still rises in the last third of the time, and the verdict."""
    head = ["", "first third", "second third", "end", "rise in the last third (points)", "95 % interval", ""]
    rows = [head, ["---", *["---:"] * 5, "---"]]
    for label, runs in by_label(found).items():
        seconds, values = _mean_curve([run["curve"] for run in runs])
        reached = [100 * np.interp(seconds[-1] * part / 3, seconds, values) for part in (1, 2, 3)]
        rise, half = last_third([run["curve"] for run in runs])
        shown = ["-", "-"] if np.isnan(half) else [f"{rise:+.1f}", f"[{rise - half:+.1f}, {rise + half:+.1f}]"]
        rows.append([label, *(f"{value:.1f}" for value in reached), *shown, _verdict(rise, half)])
    note = (
        "Exact match in % on the validation questions of the curves, means over seeds. The rise in the last third\n"
        "of the time is the slope of a line fitted to all seeds' points there (with a level per seed), times that\n"
        "third; its interval treats the deviations from the line as independent. Rising or falling: the interval\n"
        f"excludes 0. Flat: the interval includes 0 and lies within {FLAT_POINTS:g} point of it. Otherwise: not\n"
        "shown. The learning rate falls to 0 at the end, which flattens any curve."
    )
    return f"{_few_steps(found)}\n\n{note}\n\n{table(rows)}"


def _few_steps(found: Found) -> str:
    """Which methods took fewer steps than the experiments are meant to have."""
    steps = {label: min(run["steps"] for run in runs) for label, runs in by_label(found).items()}
    few = [f"`{label}` ({count:,})" for label, count in steps.items() if count < WANTED_STEPS]
    if not few:
        return f"Every run took {WANTED_STEPS:,} steps or more."
    return f"**Fewer than {WANTED_STEPS:,} steps** (of the run with fewest): {', '.join(few)}."


def last_third(curves: Sequence[Sequence[Mapping[str, float]]]) -> tuple[float, float]:
    """(rise in points of exact match over the last third of the time, half of its 95 % interval); NaN where unknown.

    Least squares with a level for each curve and one slope: slope = sum xy / sum x^2, x and y less their curve's mean;
    half = t(.975, points - curves - 1) * sqrt(residuals / that number / sum x^2), both times a third of the time.
    """
    from scipy import stats  # takes a second

    times, values = [], []
    for curve in curves:
        x, y = (np.array([point[key] for point in curve], dtype=float) for key in ("seconds", "exact_match"))
        late = x >= x[-1] * (2 / 3 - 0.02)  # a point is answered at the end of the step that reaches it
        times.append(x[late] - x[late].mean())
        values.append(100 * (y[late] - y[late].mean()))
    x, y, third = (
        np.concatenate(times),
        np.concatenate(values),
        float(np.mean([curve[-1]["seconds"] for curve in curves])) / 3,
    )
    free, spread = len(x) - len(curves) - 1, float(x @ x)
    if free < 1 or not spread:
        return float("nan"), float("nan")
    slope = float(x @ y) / spread
    error = np.sqrt(float(((y - slope * x) ** 2).sum()) / free / spread)
    return slope * third, float(stats.t.ppf(0.975, free) * error) * third


def _verdict(rise: float, half: float) -> str:
    if np.isnan(half):
        return "unknown"
    if abs(rise) > half:
        return "rising" if rise > 0 else "falling"
    return "flat" if abs(rise) + half <= FLAT_POINTS else "not shown"


def _mean_curve(curves: Sequence[Sequence[Mapping[str, float]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of several curves of one method, whose points are of the same times, at the mean of their seconds."""
    points = min(map(len, curves))
    cut = [curve[:points] for curve in curves]
    seconds, values = (
        np.array([[point[key] for point in curve] for curve in cut]) for key in ("seconds", "exact_match")
    )
    return seconds.mean(0), values.mean(0)
