"""The search of a comparison of language models: its tries, what they are measured by, and the best of them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grkd import objectives
from grkd.errors import UserError
from grkd.files import read_json
from grkd.metrics.registry import higher_is_better
from grkd.recipe import LanguageRecipe, Method, Search
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student of a comparison: `trial` numbers a try of the search; None is a run that counts."""

    recipe: LanguageRecipe
    method: Method
    seed: int
    learning_rate: float
    trial: int | None = None

    @property
    def name(self) -> str:
        if self.trial is None:
            return f"{self.method.label}-seed{self.seed}"
        return f"{self.method.label}-try{self.trial}"


def metric(search: Search) -> str:
    """What the search goes by: exact match where there are questions, else the soft cross-entropy."""
    return search.metric or ("exact_match" if search.questions else "soft_cross_entropy_nats")


def settings_to_try(search: Search, label: str, learning_rate: float) -> list[dict[str, Any]]:
    """The settings to try for a method: its learning rates times its options' values, `trials` of them at most.

    A larger grid is thinned evenly, so that every method has the same number of tries.
    """
    axes: dict[str, Sequence[Any]] = {"learning_rate": search.learning_rate or [learning_rate]}
    axes |= search.options.get(label, {})
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(grid) <= search.trials:
        return grid
    return [grid[round(number * (len(grid) - 1) / max(1, search.trials - 1))] for number in range(search.trials)]


def all_tries(recipe: LanguageRecipe) -> list[Job]:
    """Every try of every method; none without a search. Raises UserError for a value that an option refuses."""
    search = recipe.search
    if search is None:
        return []
    return [
        _try(recipe, method, number, settings)
        for method in recipe.methods
        for number, settings in enumerate(settings_to_try(search, method.label, recipe.training.learning_rate))
    ]


def best_try(own: Sequence[Job], outcomes: Mapping[str, str], run: RunFolder) -> Job | None:
    """The best of a method's tries (the first of equals), once all have ended; None before, or if none ended well."""
    values = {job.name: _value(job, run) for job in own if outcomes.get(job.name) == DONE}
    if not values or any(job.name not in outcomes for job in own):
        return None
    better = max if higher_is_better(_metric(own[0])) else min
    return better((job for job in own if job.name in values), key=lambda job: values[job.name])


def search_records(tries: Sequence[Job], outcomes: Mapping[str, str], run: RunFolder) -> list[dict[str, Any]]:
    """Of search.json: every try that has ended, for reports."""
    return [
        {
            "method": job.method.label,
            "learning_rate": job.learning_rate,
            **job.method.options,
            "metric": _metric(job),
            "value": _value(job, run) if outcomes[job.name] == DONE else None,
            "outcome": outcomes[job.name],
        }
        for job in tries
        if job.name in outcomes
    ]


def _try(recipe: LanguageRecipe, method: Method, number: int, settings: dict[str, Any]) -> Job:
    options = {name: value for name, value in settings.items() if name != "learning_rate"}
    tried = replace(method, options={**method.options, **options})
    objectives.load(tried.name, **tried.options)  # a value that an option refuses is the recipe's mistake
    rate = settings["learning_rate"]
    return Job(recipe=recipe, method=tried, seed=recipe.seeds[0], learning_rate=rate, trial=number)


def _value(job: Job, run: RunFolder) -> float:
    """What a try that ended well has reached. Raises UserError for a metric that is not measured."""
    by, found = _metric(job), read_json(run.path / "search" / job.name / "metrics.json")
    value = found.get(by, {}).get("value")
    if value is None:
        raise UserError(f"search.metric: {by} is not among what is measured: {', '.join(found)}")
    return float(value)


def _metric(job: Job) -> str:
    assert job.recipe.search is not None
    return metric(job.recipe.search)
