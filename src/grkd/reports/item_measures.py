"""Metrics of benchmarks that can be compared item by item, as the benchmarks say."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from grkd.benchmarks import Measure, all_benchmarks
from grkd.benchmarks.lm_eval import PREFIX
from grkd.benchmarks.lm_eval import measure as main_measure
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


def measures_of(task: str, *, right_or_wrong: bool) -> tuple[ItemMeasure, ...]:
    """The measures of a task in result files; of a task of lm-eval its main metric.

    right_or_wrong: every item of it is 0 or 1.
    """
    known = tuple(one for one in item_measures() if one.task == task)
    if known or not task.startswith(PREFIX):
        return known
    own = main_measure(right_or_wrong=right_or_wrong)
    return (ItemMeasure(task=task, task_title=task.removeprefix(PREFIX), measure=own),)


def _item_measures() -> Iterator[ItemMeasure]:
    for name, benchmark in all_benchmarks().items():
        for measure in benchmark.measures:
            yield ItemMeasure(task=name, task_title=benchmark.title, measure=measure)
