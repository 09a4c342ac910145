"""Metrics of benchmarks that can be compared item by item, as the benchmarks say."""

from dataclasses import dataclass
from functools import cache

from grkd.benchmarks import Measure, all_benchmarks
from grkd.benchmarks.lm_eval import PREFIX
from grkd.benchmarks.lm_eval import measure as main_measure


@dataclass(frozen=True, kw_only=True)
class ItemMeasure(Measure):
    """A measure of one benchmark. An item's value times `metric.scale` is in the unit shown."""

    task: str
    task_title: str

    @property
    def title(self) -> str:
        return f"{self.task_title}: {self.metric.label}" + (f" ({self.metric.unit})" if self.metric.unit else "")

    @property
    def higher_is_better(self) -> bool:
        return self.metric.direction > 0


@cache
def item_measures() -> tuple[ItemMeasure, ...]:
    """Every measure of every benchmark, in the benchmarks' order."""
    return tuple(
        ItemMeasure(task=name, task_title=benchmark.title, **vars(measure))
        for name, benchmark in all_benchmarks().items()
        for measure in benchmark.measures
    )


def measures_of(task: str, *, right_or_wrong: bool) -> tuple[ItemMeasure, ...]:
    """The measures of a task in result files; of a task of lm-eval its main metric.

    right_or_wrong: every item of it is 0 or 1.
    """
    known = tuple(one for one in item_measures() if one.task == task)
    if known or not task.startswith(PREFIX):
        return known
    own = main_measure(right_or_wrong=right_or_wrong)
    return (ItemMeasure(task=task, task_title=task.removeprefix(PREFIX), **vars(own)),)
