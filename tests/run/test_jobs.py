"""Jobs in one process or several: each ends with an outcome, whatever becomes of the others."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from rich.progress import Progress

from grkd.errors import UserError
from grkd.ranks import MetByAllError
from grkd.run import jobs
from grkd.run.jobs import failure, run_jobs


def work(job: str) -> None:
    time.sleep(0.05 * len(job))
    if job == "bad":
        raise ValueError("two\nlines")
    if job == "dead":
        os._exit(1)


BESIDE = get_context("fork").Event()


def dies_beside(job: str) -> None:
    """`dead` dies once `beside` is under way, which ends with its pool alone."""
    if job == "beside":
        BESIDE.set()
        get_context("fork").Event().wait(60)
    if job == "dead":
        assert BESIDE.wait(60)
        os._exit(1)


class Threads(ThreadPoolExecutor):
    """In place of processes, which take seconds to start."""

    def __init__(self, workers: int, **_: Any) -> None:
        super().__init__(workers)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_fails_leaves_the_others_be(processes: int) -> None:
    found = dict(run_jobs(["a", "bad", "c", "d"], work, processes=processes, description="jobs"))
    assert found == {"a": "done", "bad": "failed: ValueError: two lines", "c": "done", "d": "done"}


def test_an_error_of_one_process_of_a_launch_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for it in the middle of the job; what all of them meet is noted, and they go on together."""

    def met(job: str) -> None:
        if job != "a":
            raise {"lost": FloatingPointError("lost"), "all": MetByAllError("ValueError: x")}.get(job, ValueError(job))

    monkeypatch.setenv("WORLD_SIZE", "2")
    found = dict(run_jobs(["lost", "all", "a"], met, processes=1, description="jobs"))
    assert found == {"lost": "failed: FloatingPointError: lost", "all": "failed: ValueError: x", "a": "done"}
    with pytest.raises(ValueError, match="own"):
        list(run_jobs(["own", "a"], met, processes=1, description="jobs"))


def test_a_process_that_dies_takes_only_what_was_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grkd.run.jobs.get_context", lambda _: get_context("fork"))
    queue, found = ["a", "dead", "beside", "last", "more"], {}
    for job, outcome in run_jobs(queue, dies_beside, processes=2, description="jobs"):
        found[job] = outcome
        queue += ["added"] if job == "dead" else []
    assert set(found) == {"a", "dead", "beside", "last", "more", "added"}
    assert found["dead"] == found["beside"] == "failed: its process died (out of memory?)"
    assert found["a"] == found["last"] == found["more"] == found["added"] == "done"


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_that_become_ready_are_taken_in_the_order_of_the_queue(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two at a time, what is added while a slow job is under way is done before it ends."""
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Threads)
    slow = "a" * 20
    queue, ended = [slow, "b", "c"], []
    for job, outcome in run_jobs(queue, work, processes=processes, description="jobs"):
        assert outcome == "done"
        ended.append(job)
        if len(job) == 1:
            queue.append(2 * job)
            queue.sort()
    assert ended == ([slow, "b", "bb", "c", "cc"] if processes == 1 else ["b", "bb", "c", "cc", slow])
    assert queue == []


def test_a_queue_that_grows_from_one_job_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Noted(Threads):
        def submit(self, work: Any, *words: Any) -> Any:
            sizes.append(self._max_workers)
            return super().submit(work, *words)

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Noted)
    queue, ended = ["a"], []
    for job, _ in run_jobs(queue, work, processes=2, description="jobs"):
        ended.append(job)
        queue += ["bb", "c"] if job == "a" else []
    assert ended == ["a", "c", "bb"]  # side by side: the shorter one ends first
    assert sizes == [2, 2]


def test_no_job_is_lost_where_the_pool_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process can die between two outcomes: the next job is refused, and done by the pool after."""
    pools: list[int] = []

    class Broken(Threads):
        def __init__(self, workers: int, **options: Any) -> None:
            super().__init__(workers, **options)
            pools.append(0)

        def submit(self, work: Any, *words: Any) -> Any:
            pools[-1] += 1
            if len(pools) == 1 and pools[-1] == 3:
                raise BrokenProcessPool
            return super().submit(work, *words)

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Broken)
    found = dict(run_jobs(["a", "a long one", "last", "more"], work, processes=2, description="jobs"))
    assert found["a long one"].startswith("failed: its process died")
    assert found == {"a": "done", "a long one": found["a long one"], "last": "done", "more": "done"}
    assert pools == [3, 2]


def test_the_bar_grows_with_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []

    class Bar(Progress):
        def update(self, task_id: Any, **values: Any) -> None:
            shown.append((values["completed"], values["total"]))
            super().update(task_id, **values)

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(jobs, "progress_bar", Bar)
    queue = ["a", "b"]
    for job, _ in run_jobs(queue, work, processes=2, description="jobs"):
        queue += [2 * job] if len(job) == 1 else []
    assert shown == [(1, 3), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("job", ["well", "badly"])
def test_memory_is_given_back_after_every_job(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes share a GPU: what one kept from its last job, another could not have."""
    freed: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))

    def either(word: str) -> None:
        if word == "badly":
            raise RuntimeError(word)

    assert len(list(run_jobs([job], either, processes=1, description="jobs"))) == 1
    assert freed == [True]


@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (FloatingPointError("the loss is nan at step 1"), False),
        (UserError("label: too long"), False),
        (KeyError("x"), True),
    ],
)
def test_a_traceback_only_where_the_reason_does_not_say_all(
    capsys: pytest.CaptureFixture[str], error: Exception, traced: bool
) -> None:
    assert failure(error) == f"failed: {type(error).__name__}: {error}"
    assert (type(error).__name__ in capsys.readouterr().err) == traced
