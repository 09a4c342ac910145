"""Metrics of benchmarks that can be compared item by item, as the benchmarks say."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from grkd.benchmarks import Measure, all_benchmarks
from grkd.metrics.registry import Metric


@dataclass(frozen=True, kw_only=True)
class ItemMeasure:
    """A measure of one benchmark. An item's value times `metric.scale` is in the unit shown."""

    task: str
    task_title: str
    measure: Measure

    @property
    def metric(self) -> Metric:
        return self.measure.metric

    @property
    def key(self) -> str:
        return self.measure.key

    @property
    def weight(self) -> str | None:
        return self.measure.weight

    @property
    def right_or_wrong(self) -> bool:
        return self.measure.right_or_wrong

    @property
    def title(self) -> str:
        return f"{self.task_title}: {self.metric.label}" + (f" ({self.metric.unit})" if self.metric.unit else "")

    @property
    def higher_is_better(self) -> bool:
        return self.metric.direction > 0


@cache
def item_measures() -> tuple[ItemMeasure, ...]:
    """Every measure of every benchmark, in the benchmarks' order."""
    return tuple(_item_measures())


def _item_measures() -> Iterator[ItemMeasure]:
    for name, benchmark in all_benchmarks().items():
        for measure in benchmark.measures:
            yield ItemMeasure(task=name, task_title=benchmark.title, measure=measure)
