"""What a plan holds, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run. seconds: of one time."""

    name: str
    seconds: float
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An estimate of a run.

    stages: of `grkd run`. trials: those that `grkd compare` adds. memory: bytes at the peak of a training step by part,
    after the model of memory. peak: that model's total, corrected by the peak of the measured steps; None without them.
    disk: bytes by what holds them. counts: prompts, tokens, steps. money: USD by what costs it. power: sentences.
    """

    stages: Sequence[Stage]
    trials: Sequence[Stage] = ()
    memory: Mapping[str, float] = field(default_factory=dict)
    peak: float | None = None
    free: float | None = None
    disk: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int | float] = field(default_factory=dict)
    money: Mapping[str, float] = field(default_factory=dict)
    power: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Of `grkd run`."""
        return sum((one.seconds * one.times for one in self.stages), 0.0)

    @property
    def seconds_with_search(self) -> float:
        """Of `grkd compare`, in one process."""
        return self.seconds + sum((one.seconds * one.times for one in self.trials), 0.0)

    def as_json(self) -> dict[str, Any]:
        totals = {"seconds": self.seconds, "seconds_with_search": self.seconds_with_search}
        return {**asdict(self), **totals}


def tables(plan: Plan) -> list[Table | str]:
    """The plan for a terminal."""
    shown: list[Table | str] = []
    if plan.counts:
        shown.append(", ".join(f"{value:,.0f} {name}" for name, value in plan.counts.items()))
    if plan.stages:
        shown.append(_times(plan))
    if plan.memory:
        total = sum(plan.memory.values())
        parts = {**plan.memory, "together": total}
        shown.append(_amounts("memory of a training step", parts))
    if plan.memory or plan.peak is not None:
        how = "corrected by measured steps" if plan.memory else "of the measured steps"
        peak = f"peak, {how}: {amount(plan.peak)}; " if plan.peak is not None else ""
        free = "" if plan.free is None else f"free now: {amount(plan.free)}"
        shown.append(peak + free)
    if plan.disk:
        shown.append(_amounts("disk", {**plan.disk, "total": sum(plan.disk.values())}))
    if plan.money:
        listed = ", ".join(f"{name} {value:,.2f}" for name, value in plan.money.items())
        shown.append(f"money in USD: {listed}; total {sum(plan.money.values()):,.2f}")
    return [*shown, *plan.power, *(f"note: {one}" for one in plan.notes)]


def _times(plan: Plan) -> Table:
    times = Table(title="time")
    for name in ("stage", "times", "each", "total"):
        times.add_column(name, justify="left" if name == "stage" else "right")
    for one in (*plan.stages, *plan.trials):
        times.add_row(one.name, str(one.times), duration(one.seconds), duration(one.seconds * one.times))
    times.add_row("grkd run", "", "", duration(plan.seconds), style="bold")
    if plan.trials:
        times.add_row("grkd compare, one process", "", "", duration(plan.seconds_with_search), style="bold")
    return times


def _amounts(title: str, parts: Mapping[str, float]) -> Table:
    made = Table(title=title)
    made.add_column("part")
    made.add_column("size", justify="right")
    for name, value in parts.items():
        made.add_row(name, amount(value))
    return made


def amount(size: float) -> str:
    """Bytes that people read: 1.5 GiB, 20 MiB."""
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB else f"{size / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """A time that people read: 12 s, 4 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
