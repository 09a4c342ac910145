"""Jobs in one process or several: each ends with an outcome, whatever becomes of the others."""

import os
import time

import pytest

from grkd.stages._pool import run_jobs


def work(job: str) -> None:
    time.sleep(0.05 * len(job))
    if job == "bad":
        raise ValueError("two\nlines")
    if job == "dead":
        os._exit(1)


def outcomes(jobs: list[str], processes: int) -> dict[str, str]:
    return dict(run_jobs(jobs, work, processes=processes, description="jobs"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_fails_leaves_the_others_be(processes: int) -> None:
    found = outcomes(["a", "bad", "c", "d"], processes)
    assert found == {"a": "done", "bad": "failed: ValueError: two lines", "c": "done", "d": "done"}


def test_a_process_that_dies_takes_only_what_was_under_way() -> None:
    found = outcomes(["a", "dead", "later", "last", "more"], 2)
    assert set(found) == {"a", "dead", "later", "last", "more"}
    assert found["dead"].startswith("failed: its process died")
    assert found["a"] == found["last"] == found["more"] == "done"
