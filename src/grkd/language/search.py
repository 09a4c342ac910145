"""The search of a comparison of language models: its jobs, what they are measured by, and the best of each method."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grkd.compare.search import Space
from grkd.compare.study import Study, Trial, journal_of
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.metrics.registry import higher_is_better
from grkd.recipe import LanguageRecipe, Method, Search
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student of a comparison: `trial` numbers a trial of the search; None is a final run."""

    recipe: LanguageRecipe
    method: Method
    seed: int
    learning_rate: float
    trial: int | None = None

    @property
    def name(self) -> str:
        if self.trial is None:
            return f"{self.method.label}-seed{self.seed}"
        return f"{self.method.label}-trial{self.trial}"


def metric(search: Search) -> str:
    """What the search goes by: exact match if there are questions, else the soft cross-entropy."""
    return search.metric or ("exact_match" if search.questions else "soft_cross_entropy_nats")


def space(recipe: LanguageRecipe, method: Method) -> Space:
    """What the search may set for a method: the learning rate, and its options that the recipe lists."""
    assert recipe.search is not None
    rates = recipe.search.learning_rate or [recipe.training.learning_rate]
    return {"learning_rate": list(rates), **recipe.search.options.get(method.label, {})}


def search_job(recipe: LanguageRecipe, method: Method, trial: Trial, *, number: int | None) -> Job:
    """A method with a trial's settings, at the search's seed. number: of the trial; None for final runs."""
    options = {name: value for name, value in trial.settings.items() if name != "learning_rate"}
    tried = replace(method, options={**method.options, **options})
    rate = trial.settings["learning_rate"]
    return Job(recipe=recipe, method=tried, seed=recipe.seeds[0], learning_rate=rate, trial=number)


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
            self.studies = {method.label: self._study(method, keys[method.label]) for method in recipe.methods}

    def next_jobs(self, method: Method) -> list[Job]:
        """The method's trials to run now."""
        trials: list[Trial] = self.run.from_main(lambda: self.studies[method.label].next())
        return [search_job(self.recipe, method, trial, number=trial.number) for trial in trials]

    def best(self, method: Method) -> Job | None:
        """The best settings of a method whose search is over; None before, and if no trial has a value."""
        trial: Trial | None = self.run.from_main(lambda: self.studies[method.label].best())
        return None if trial is None else search_job(self.recipe, method, trial, number=None)

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

    def _study(self, method: Method, key: str) -> Study:
        return Study(
            journal_of(self.run.path),
            label=method.label,
            key=key,
            space=space(self.recipe, method),
            trials=self.search.trials,
            seed=self.recipe.seeds[0],
            maximise=higher_is_better(metric(self.search)),
        )

    def _value(self, job: Job) -> float:
        by, found = metric(self.search), read_json(self.run.path / "search" / job.name / "metrics.json")
        value: Any = found.get(by, {}).get("value")
        if value is None:
            raise UserError(f"search.metric: {by} was not measured here; measured: {', '.join(found)}")
        return float(value)
