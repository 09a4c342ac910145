"""Progress without a terminal: plain lines with share, throughput and time left."""

import io
import threading

import pytest
from rich.console import Console

from grkd import console
from grkd.console import PlainProgress


def plain(every_seconds: float = 3600.0) -> tuple[PlainProgress, io.StringIO]:
    stream = io.StringIO()
    return PlainProgress(to=Console(file=stream, width=40), every_seconds=every_seconds), stream


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    left = list(times)
    monkeypatch.setattr(console.time, "monotonic", lambda: left.pop(0) if len(left) > 1 else left[0])


def test_a_line_tells_share_throughput_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 100.0, 160.0)
    bar, _ = plain()
    task = bar.add_task("train kd-seed0", total=400, unit="step")
    bar.update(task, completed=100)
    assert bar.line(bar.tasks[0]) == "train kd-seed0: 100 of 400 (25%), 1.7 step/s, 0:03:00 left"


def test_what_was_done_before_a_restart_is_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 10.0)
    bar, _ = plain()
    task = bar.add_task("train", total=400, completed=300, unit="step")
    assert bar.line(bar.tasks[0]) == "train: 300 of 400 (75%)"
    bar.update(task, completed=350)
    assert bar.line(bar.tasks[0]) == "train: 350 of 400 (88%), 5.0 step/s, 0:00:10 left"


def test_an_amount_is_the_throughput_and_an_end_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 20.0)
    bar, _ = plain()
    task = bar.add_task("respond", total=4, unit="token", amount=0)
    bar.update(task, completed=4, amount=5000)
    assert bar.line(bar.tasks[0]) == "respond: 4 of 4 (100%), 250.0 token/s, took 0:00:20"


def test_lines_come_while_nothing_advances_and_one_at_the_end() -> None:
    bar, stream = plain(every_seconds=0.001)
    written = threading.Event()
    wrapped = bar.console.print

    def seen(*words: object, **options: object) -> None:
        wrapped(*words, **options)  # type: ignore[arg-type]
        written.set()

    bar.console.print = seen  # type: ignore[method-assign]
    with bar:
        task = bar.add_task("a task with a [name] that is longer than the console is wide", total=2)
        assert written.wait(60)
        bar.advance(task, 2)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("a task with a [name] that is longer than the console is wide: 0 of 2 (0%)")
    assert "2 of 2 (100%)" in lines[-1]


def test_a_quiet_console_says_nothing() -> None:
    bar, stream = plain()
    bar.console.quiet = True
    with bar:
        bar.add_task("x", total=1)
    assert stream.getvalue() == ""


def test_every_bar_is_plain_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=stream, width=200))
    assert list(console.track([1, 2, 3], "count", unit="thing")) == [1, 2, 3]
    assert stream.getvalue().startswith("count: 3 of 3 (100%)")
    monkeypatch.setattr(console, "console", Console(file=stream, force_terminal=True))
    assert not isinstance(console.progress_bar(), PlainProgress)
