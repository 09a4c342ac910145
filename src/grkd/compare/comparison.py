"""`grkd run` and `grkd compare` for tasks with many small students: shared stages, search, final runs, best/."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from grkd.compare.outcomes import is_done, note_failure, outcome
from grkd.compare.student_job import StudentJob, final_name, job_at
from grkd.compare.study import Study
from grkd.compare.task import TaskContext
from grkd.console import console
from grkd.files import write_json
from grkd.ranks import is_past
from grkd.recipe import Method
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect

Until = Literal["teach", "search", "finals"]


class Comparison(ABC):
    """Every method of a recipe, tuned alike if it has a search, then trained with every seed.

    A task says how to make what all students share, and how a group of students is trained.
    What is complete is kept: the same command resumes after a kill. search.json and results.json are written after
    every result, and at the end the best student goes to best/.
    """

    def __init__(self, context: TaskContext) -> None:
        self._context, self._recipe, self._run = context, context.recipe, context.run
        self._main = context.run.ranks.is_main_process
        self._finals: dict[str, list[StudentJob]] = {}

    @abstractmethod
    def prepare(self) -> None:
        """Everything before the students. Raises UserError for a recipe that does not fit, before it costs time."""

    @staticmethod
    @abstractmethod
    def train_group(jobs: Sequence[StudentJob]) -> None:
        """Train and measure students at one go; a function of a module, which other processes can call."""

    @abstractmethod
    def keep_best(self, jobs: Sequence[StudentJob]) -> None:
        """Copy the best of these students to best/."""

    def together(self, jobs: Sequence[StudentJob], processes: int) -> list[tuple[StudentJob, ...]]:
        """The jobs in groups, each for a process at one go."""
        return [(job,) for job in jobs]

    def as_written(self) -> dict[str, str]:
        """Every method as the recipe writes it, without a search. Returns the outcome of each final run."""
        self.prepare()
        self._finals = self._unsearched()
        self._run_finals(processes=1, deadline=None)
        return self._status()

    def compare(self, *, processes: int = 1, minutes: float | None = None, until: Until = "finals") -> dict[str, str]:
        """Shared stages, search, final runs. Returns the outcome of each final run.

        processes: jobs at a time. minutes: after which no further student is begun. until: the last part to do.
        """
        deadline = None if minutes is None else time.time() + 60 * minutes
        self.prepare()
        if until == "teach":
            return {final_name(method, seed): NOT_YET for method in self._recipe.methods for seed in self._recipe.seeds}
        if self._recipe.search is not None:
            self._finals = self._searched(processes, deadline)
        else:
            self._finals = self._unsearched()
            if self._main:
                (self._run.path / "search.json").unlink(missing_ok=True)  # of an earlier recipe
        if until == "finals":
            self._run_finals(processes, deadline)
        return self._status()

    def _unsearched(self) -> dict[str, list[StudentJob]]:
        settings = {"learning_rate": self._recipe.training.learning_rate}
        return {method.label: self._each_seed(method, settings) for method in self._recipe.methods}

    def _searched(self, processes: int, deadline: float | None) -> dict[str, list[StudentJob]]:
        """Final runs with the best settings per method that has a best trial.

        In rounds: the next trials of all methods are trained together, until no study asks for more.
        """
        methods = {method.label: method for method in self._recipe.methods}
        studies: dict[str, Study] = {label: self._context.study(label) for label in methods} if self._main else {}

        def note() -> None:
            if self._main:
                found = [one for study in studies.values() for one in study.records(metric=self._context.metric)]
                write_json(self._run.path / "search.json", found)

        def failed(job: StudentJob, reason: str) -> None:
            if self._main and job.trial is not None and studies[job.method.label].is_running(job.trial):
                studies[job.method.label].tell(job.trial, failure=reason)

        while trials := self._run.from_main(
            lambda: [(label, trial) for label, study in studies.items() for trial in study.next()]
        ):
            jobs = [self._job(methods[label], trial.settings, trial.number) for label, trial in trials]
            self._train(jobs, processes, deadline, description="search", failed=failed, note=note)
            if is_past(deadline):
                break
        note()
        best = self._run.from_main(lambda: {label: study.best() for label, study in studies.items()})
        return {
            label: self._each_seed(methods[label], trial.settings) for label, trial in best.items() if trial is not None
        }

    def _each_seed(self, method: Method, settings: Mapping[str, Any]) -> list[StudentJob]:
        return [replace(self._job(method, settings), seed=seed) for seed in self._recipe.seeds]

    def _job(self, method: Method, settings: Mapping[str, Any], trial: int | None = None) -> StudentJob:
        return job_at(StudentJob, self._recipe, method, settings, trial)

    def _run_finals(self, processes: int, deadline: float | None) -> None:
        """A seed of every method before the next seed; then the best is kept."""
        jobs = [own[place] for place in range(len(self._recipe.seeds)) for own in self._finals.values()]

        def note() -> None:
            status = self._status()
            if self._main:
                collect(self._recipe, self._run.path, status)

        failed = partial(note_failure, self._context)
        self._train(jobs, processes, deadline, description="train", failed=failed, note=note)
        self.keep_best([job for job in jobs if is_done(self._context, job)])

    def _train(
        self,
        jobs: Sequence[StudentJob],
        processes: int,
        deadline: float | None,
        *,
        description: str,
        failed: Callable[[StudentJob, str], None],
        note: Callable[[], None],
    ) -> None:
        """Train and measure the jobs. failed: called for each that failed, with the reason. note: after each result."""
        queue = self.together(jobs, processes)
        if is_past(deadline):
            return
        for group, ended in run_jobs(queue, self.train_group, processes=processes, description=description):
            if ended != DONE:
                console.print(f"[red]{', '.join(job.name for job in group)}: {ended}[/red]")
                for job in group:
                    failed(job, ended.removeprefix("failed: "))
            note()
            if is_past(deadline):
                queue.clear()

    def _status(self) -> dict[str, str]:
        """The outcome of every final run, as far as it is known."""
        status = {}
        for method in self._recipe.methods:
            own = {job.name: job for job in self._finals.get(method.label, ())}
            without = NOT_YET if own else self._run.from_main(partial(self._without_final, method.label))
            for name in (final_name(method, seed) for seed in self._recipe.seeds):
                status[name] = outcome(self._context, own[name]) if name in own else without
        return status

    def _without_final(self, label: str) -> str:
        """The outcome of the final runs of a method whose search is not over, or has no trial with a value."""
        reason = self._context.study(label).why_none()
        return NOT_YET if reason is None else f"failed: every trial of its search failed: {reason}"
