"""The one console, and progress bars with throughput and time left."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False)


class Output(Console):
    """Standard output. A reader that leaves is the caller's to know of: rich would end the process with status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Speed(ProgressColumn):
    """Throughput: units a second of whatever the task counts in its `unit` field."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        amount = task.fields.get("amount")
        if amount is not None and task.elapsed:
            speed = amount / task.elapsed
        return Text("" if speed is None else f"{speed:,.1f} {task.fields.get('unit', 'it')}/s", style="cyan")


def progress_bar() -> Progress:
    """A bar: description, position, throughput, time left. A task's `unit` names what is counted;
    its `amount` (say, tokens so far) is shown a second in place of the position where given."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
    )


def track(items: Iterable[Item], description: str, *, unit: str = "it", total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            bar.advance(task)
