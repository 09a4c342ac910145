"""The one console, and progress with throughput and time left: a bar in a terminal, plain lines elsewhere."""

import datetime
import time
from collections.abc import Iterable, Iterator, Sized
from threading import Event, Thread
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")

LINE_EVERY_SECONDS = 30.0

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


class PlainProgress(Progress):
    """Progress where no terminal can redraw a bar: a line per running task at fixed times, and one when it ends.

    The lines come from a thread of their own, so that a log shows life during a step of many minutes too.
    """

    def __init__(self, *, to: Console, every_seconds: float = LINE_EVERY_SECONDS) -> None:
        super().__init__(console=to, disable=True, auto_refresh=False)
        self._every_seconds = every_seconds
        self._begun: dict[TaskID, tuple[float, float]] = {}  # time, and what was completed before
        self._ended = Event()
        self._thread: Thread | None = None

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(description, *arguments, **options)
        self._begun[task] = time.monotonic(), self._tasks[task].completed
        return task

    def start(self) -> None:
        if self._thread is None and not self.console.quiet:
            self._ended.clear()
            self._thread = Thread(target=self._report, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        self._say()

    def line(self, task: Task) -> str:
        """Description, position, share, throughput, time left; the time spent in place of the last when finished."""
        begun, before = self._begun[task.id]
        seconds = time.monotonic() - begun
        done, total = task.completed, task.total
        words = [f"{done:,.0f}" if not total else f"{done:,.0f} of {total:,.0f} ({done / total:.0%})"]
        amount = task.fields.get("amount")
        counted = done - before if amount is None else amount
        if counted > 0 and seconds > 0:
            words.append(f"{counted / seconds:,.1f} {task.fields.get('unit', 'it')}/s")
        if total and done >= total:
            words.append(f"took {_duration(seconds)}")
        elif total and done > before:
            words.append(f"{_duration((total - done) * seconds / (done - before))} left")
        return f"{task.description}: {', '.join(words)}"

    def _report(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self._say()

    def _say(self) -> None:
        for task in self.tasks:
            self.console.print(self.line(task), markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def progress_bar() -> Progress:
    """Progress of one or more tasks: description, position, throughput, time left.

    A task's `unit` names what is counted; its `amount` (say, tokens so far), if given, is shown per second in place of
    the position.
    """
    if not (console.is_terminal or console.is_jupyter):
        return PlainProgress(to=console)
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
