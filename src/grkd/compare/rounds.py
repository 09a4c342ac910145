"""A search in rounds: the next trials of all methods are trained together, until no study asks for more."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from grkd.compare.student_job import StudentJob
from grkd.compare.study import Study, Trial
from grkd.files import write_json
from grkd.ranks import is_past
from grkd.recipe import Method
from grkd.run.folder import RunFolder

Job = TypeVar("Job", bound=StudentJob)
Failed = Callable[[Job, str], None]


def best_trials(
    run: RunFolder,
    studies: Mapping[str, Study],
    methods: Sequence[Method],
    *,
    metric: str,
    job_of: Callable[[Method, Trial], Job],
    train: Callable[[list[Job], Failed[Job], Callable[[], None]], None],
    deadline: float | None,
) -> dict[str, Trial]:
    """The best trial of each method; none of a method whose search is unfinished or whose trials all failed.

    studies: by the method's label, on the main process alone. train: trains the jobs, calls the second argument for
    each that failed (job, reason) and the third after each result. deadline: in seconds of time.time(), after which no
    round begins. Writes search.json after every result.
    """
    main = run.ranks.is_main_process

    def note() -> None:
        if main:
            found = [record for study in studies.values() for record in study.records(metric=metric)]
            write_json(run.path / "search.json", found)

    def failed(job: Job, reason: str) -> None:
        if main and job.trial is not None and studies[job.method.label].is_running(job.trial):
            studies[job.method.label].tell(job.trial, failure=reason)

    while jobs := [
        job_of(method, trial) for method in methods for trial in run.from_main(partial(_next, studies, method.label))
    ]:
        train(jobs, failed, note)
        if is_past(deadline):
            break
    note()
    found = {method.label: run.from_main(partial(_best, studies, method.label)) for method in methods}
    return {label: trial for label, trial in found.items() if trial is not None}


def _next(studies: Mapping[str, Study], label: str) -> list[Trial]:
    return studies[label].next()


def _best(studies: Mapping[str, Study], label: str) -> Trial | None:
    return studies[label].best()
