"""The search of a comparison of language models: its jobs, what they are measured by, and the best of each method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grkd.compare.student_job import StudentJob, job_at
from grkd.compare.study import Trial, study_of
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.metrics.registry import OF_RANKS
from grkd.recipe import LanguageRecipe, Method, Search
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET


@dataclass(frozen=True, kw_only=True)
class Job(StudentJob):
    """One student of a comparison."""

    recipe: LanguageRecipe


def metric(search: Search) -> str:
    """What the search goes by: exact match if there are questions, else the soft cross-entropy."""
    return search.metric or ("exact_match" if search.questions else "soft_cross_entropy_nats")


def check_metric(search: Search) -> None:
    """Raises UserError for a metric that trials are not measured by."""
    known = [*(["exact_match"] if search.questions else []), *OF_RANKS]
    if metric(search) not in known:
        hint = "; exact_match needs search.questions" if search.metric == "exact_match" else ""
        raise UserError(f"search.metric: unknown metric {search.metric!r}{hint}; available: {', '.join(known)}")


class LanguageSearch:
    """The studies of all methods. With several ranks the main one keeps them, and all get the same answers.

    keys: label -> digest of what the method's trials depend on beside their settings.
    """

    def __init__(self, recipe: LanguageRecipe, run: RunFolder, keys: Mapping[str, str]) -> None:
        self.recipe, self.run = recipe, run
        assert recipe.search is not None
        self.search = recipe.search
        self.studies = {}
        if run.ranks.is_main_process:
            self.studies = {
                method.label: study_of(run.path, recipe, method, metric=metric(recipe.search), key=keys[method.label])
                for method in recipe.methods
            }

    def next_jobs(self, method: Method) -> list[Job]:
        """The method's trials to run now."""
        trials: list[Trial] = self.run.from_main(lambda: self.studies[method.label].next())
        return [job_at(Job, self.recipe, method, trial.settings, trial.number) for trial in trials]

    def best(self, method: Method) -> Job | None:
        """The best settings of a method whose search is over; None before, and if no trial has a value."""
        trial: Trial | None = self.run.from_main(lambda: self.studies[method.label].best())
        return None if trial is None else job_at(Job, self.recipe, method, trial.settings)

    def tell(self, job: Job, outcome: str) -> None:
        """How a trial ended. Raises UserError for a metric that is not measured."""
        assert job.trial is not None
        if not self.run.ranks.is_main_process:
            return
        study = self.studies[job.method.label]
        if outcome == DONE:
            study.tell(job.trial, value=self._value(job))
        else:
            study.tell(job.trial, failure=outcome.removeprefix("failed: "))

    def without_best(self, method: Method) -> str:
        """The status of the finals of a method that has no best settings yet, or never."""
        over: bool = self.run.from_main(lambda: self.studies[method.label].is_over)
        return "failed: no trial ended" if over else NOT_YET

    def write(self) -> None:
        """search.json: the trials of all methods that have ended."""
        if self.run.ranks.is_main_process:
            by = metric(self.search)
            found = [record for study in self.studies.values() for record in study.records(metric=by)]
            write_json(self.run.path / "search.json", found)

    def _value(self, job: Job) -> float:
        by, found = metric(self.search), read_json(self.run.path / "search" / job.name / "metrics.json")
        value: Any = found.get(by, {}).get("value")
        if value is None:
            raise UserError(f"search.metric: {by} was not measured here; measured: {', '.join(found)}")
        return float(value)
