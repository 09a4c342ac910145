"""`grkd run` and `grkd compare` for tasks with many small students: shared stages, search, final runs, best/."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from grkd.compare.outcomes import is_done, note_failure, outcome
from grkd.compare.student_job import StudentJob, final_name, job_at
from grkd.compare.study import Study, Trial
from grkd.files import write_json
from grkd.ranks import is_past
from grkd.recipe import ClassifierRecipe, Method, RankRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import NOT_YET
from grkd.run.results import collect

Until = Literal["teach", "search", "finals"]
Job = TypeVar("Job", bound=StudentJob)


class Comparison(ABC, Generic[Job]):
    """Every method of a recipe, tuned alike if it has a search, then trained with every seed.

    A task says how to make what all students share, what a job (`job_type`) depends on, and how jobs are trained.
    What is complete is kept: the same command goes on after a kill. search.json and results.json are written after
    every result, and at the end the best student goes to best/.
    """

    job_type: ClassVar[type[StudentJob]]

    def __init__(self, recipe: ClassifierRecipe | RankRecipe, run: RunFolder) -> None:
        self.run, self.methods, self.seeds = run, recipe.methods, recipe.seeds
        self._recipe, self._has_search = recipe, recipe.search is not None
        self._finals: dict[str, list[Job]] = {}

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the search goes by."""

    @abstractmethod
    def prepare(self) -> None:
        """Everything before the students. Raises UserError for a recipe that does not fit, before it costs time."""

    @abstractmethod
    def study(self, label: str) -> Study:
        """A method's study in the run folder; the same in every process."""

    @abstractmethod
    def inputs(self, job: Job) -> dict[str, Any]:
        """What a student depends on."""

    @abstractmethod
    def train(
        self,
        jobs: list[Job],
        *,
        processes: int,
        deadline: float | None,
        description: str,
        failed: Callable[[Job, str], None],
        note: Callable[[], None],
    ) -> None:
        """Train and measure the jobs. failed: called for each that failed, with the reason. note: after each result.

        deadline: in seconds of time.time(), after which no further student is begun.
        """

    @abstractmethod
    def keep_best(self, jobs: Sequence[Job]) -> None:
        """Copy the best of these students to best/."""

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
            return {final_name(method, seed): NOT_YET for method in self.methods for seed in self.seeds}
        if self._has_search:
            self._finals = self._searched(processes, deadline)
        else:
            self._finals = self._unsearched()
            if self.run.ranks.is_main_process:
                (self.run.path / "search.json").unlink(missing_ok=True)  # of an earlier recipe
        if until == "finals":
            self._run_finals(processes, deadline)
        return self._status()

    def _unsearched(self) -> dict[str, list[Job]]:
        return {
            method.label: self._each_seed(method, {"learning_rate": self._recipe.training.learning_rate})
            for method in self.methods
        }

    def _searched(self, processes: int, deadline: float | None) -> dict[str, list[Job]]:
        """Final runs with the best settings per method whose search is over and has a best trial.

        The next trials of all methods are trained together, round after round, until no study asks for more.
        """
        main, methods = self.run.ranks.is_main_process, {method.label: method for method in self.methods}
        studies = {label: self.study(label) for label in methods} if main else {}

        def note() -> None:
            if main:
                found = [record for study in studies.values() for record in study.records(metric=self.metric)]
                write_json(self.run.path / "search.json", found)

        def failed(job: Job, reason: str) -> None:
            if main and job.trial is not None and studies[job.method.label].is_running(job.trial):
                studies[job.method.label].tell(job.trial, failure=reason)

        def following() -> list[tuple[str, Trial]]:
            return [(label, trial) for label, study in studies.items() for trial in study.next()]

        while begun := self.run.from_main(following):
            jobs = [self._job(methods[label], trial.settings, trial.number) for label, trial in begun]
            self.train(jobs, processes=processes, deadline=deadline, description="search", failed=failed, note=note)
            if is_past(deadline):
                break
        note()
        best = self.run.from_main(lambda: {label: study.best() for label, study in studies.items()})
        return {
            label: self._each_seed(methods[label], trial.settings) for label, trial in best.items() if trial is not None
        }

    def _job(self, method: Method, settings: Mapping[str, Any], trial: int | None = None) -> Job:
        return cast(Job, job_at(self.job_type, self._recipe, method, settings, trial))

    def _each_seed(self, method: Method, settings: Mapping[str, Any]) -> list[Job]:
        return [replace(self._job(method, settings), seed=seed) for seed in self.seeds]

    def _run_finals(self, processes: int, deadline: float | None) -> None:
        """A seed of every method before the next seed; then the best is kept."""
        jobs = [own[place] for place in range(len(self.seeds)) for own in self._finals.values()]

        def note() -> None:
            status = self._status()
            if self.run.ranks.is_main_process:
                collect(self._recipe, self.run.path, status)

        def failed(job: Job, reason: str) -> None:
            note_failure(self.run, job, self.inputs(job), reason)

        self.train(jobs, processes=processes, deadline=deadline, description="train", failed=failed, note=note)
        self.keep_best([job for job in jobs if is_done(self.run, job, self.inputs(job))])

    def _status(self) -> dict[str, str]:
        """The outcome of every final run, as far as it is known."""
        status = {}
        for method in self.methods:
            own = {job.name: job for job in self._finals.get(method.label, ())}
            without = NOT_YET if own else self.run.from_main(partial(self._without_final, method.label))
            for name in (final_name(method, seed) for seed in self.seeds):
                status[name] = outcome(self.run, own[name], self.inputs(own[name])) if name in own else without
        return status

    def _without_final(self, label: str) -> str:
        """The outcome of the final runs of a method whose search is not over, or has no trial with a value."""
        reason = self.study(label).why_none()
        return NOT_YET if reason is None else f"failed: every trial of its search failed: {reason}"
