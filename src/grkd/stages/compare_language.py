"""`grkd compare` for language models: every method tuned with the same number of tries, then run with every seed."""

import hashlib
import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grkd import objectives
from grkd.console import console
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.recipe import LanguageRecipe, Method, Search
from grkd.stages import language_evaluation, language_scores
from grkd.stages._folder import RunFolder, identity
from grkd.stages._models import LanguageModels
from grkd.stages._pool import DONE, run_jobs
from grkd.stages.language import shared_stages
from grkd.stages.language_training import train_student, trained_student, training_inputs


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


def compare_language(recipe: LanguageRecipe, run: RunFolder, *, processes: int) -> dict[str, str]:
    """Shared stages, the search, the runs that count. Returns the outcome of each of the latter.

    Every run takes the same number of optimiser steps on the same groups with the same teacher scores.
    """
    shared_stages(recipe, run)
    recipe = _same_steps(recipe, len(language_scores.read_groups(run, "train")), run.ranks.num_processes)
    best = _searched(recipe, run, processes)
    finals = [
        Job(recipe=recipe, method=method, seed=seed, learning_rate=learning_rate)
        for method, learning_rate in best.values()
        for seed in recipe.seeds
    ]
    status = {f"{label}-seed{seed}": "failed: no try ended" for label in _labels(recipe) for seed in recipe.seeds}
    # One seed of every method first, so that an unfinished comparison already says something of each.
    finals.sort(key=lambda job: recipe.seeds.index(job.seed))
    for job, outcome in run_jobs(finals, final, processes=processes, description="compare"):
        status[job.name] = outcome
        if outcome != DONE:
            console.print(f"[red]{job.name}: {outcome}[/red]")
    return status


def final(job: Job) -> None:
    """Train and evaluate a student that counts."""
    run, models, recipe = _opened(job)
    train_student(recipe, run, models, job.method, job.seed)
    language_evaluation.evaluate_student(recipe, run, models, job.name, job.name)


def attempt(job: Job) -> None:
    """Train a student on all but the validation groups, measure it there, and keep the figures alone."""
    run, models, recipe = _opened(job)
    search = recipe.search
    assert search is not None
    inputs = {**training_inputs(recipe, run, models, job.method, job.seed), "search": _measured(search)}

    def make(work: Path) -> None:
        fit, validation = split_groups(language_scores.read_groups(run, "train"), search.validation_fraction)
        student = trained_student(
            recipe, run, models, job.method, job.seed, fit, work, description=f"search {job.name}"
        )
        student = student.eval()
        if metric(search) == "exact_match":
            metrics = language_evaluation.answered(recipe, models, student, search.questions, work / "exact_match.json")
        else:
            metrics = language_evaluation.rank_metrics(
                recipe, run, models, student, validation, description=f"search {job.name}"
            )
        write_json(work / "metrics.json", metrics)
        shutil.rmtree(work / "checkpoints", ignore_errors=True)

    run.stage(f"search/{job.name}", inputs, make)


def metric(search: Search) -> str:
    """What the search goes by: exact match where there are questions, else the soft cross-entropy."""
    return search.metric or ("exact_match" if search.questions else "soft_cross_entropy_nats")


def tries(search: Search, label: str, learning_rate: float) -> list[dict[str, Any]]:
    """The settings to try for a method: its learning rates times its options' values, `trials` of them at most.

    A larger grid is thinned evenly, so that every method has the same number of tries.
    """
    axes: dict[str, Sequence[Any]] = {"learning_rate": search.learning_rate or [learning_rate]}
    axes |= search.options.get(label, {})
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(grid) <= search.trials:
        return grid
    return [grid[round(number * (len(grid) - 1) / max(1, search.trials - 1))] for number in range(search.trials)]


def split_groups(groups: Sequence[Group], fraction: float) -> tuple[list[Group], list[Group]]:
    """(fit, validation): which prompts are set aside depends on their ids alone. At least one on each side."""
    order = sorted(groups, key=lambda group: hashlib.sha256(group.id.encode()).digest())
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    aside = {group.id for group in order[:count]}
    return [group for group in groups if group.id not in aside], [group for group in groups if group.id in aside]


def _searched(recipe: LanguageRecipe, run: RunFolder, processes: int) -> dict[str, tuple[Method, float]]:
    """The best settings of each method; a method none of whose tries ended well is missing."""
    search = recipe.search
    if search is None:
        if run.ranks.is_main_process:
            (run.path / "search.json").unlink(missing_ok=True)  # an older recipe's
        return {method.label: (method, recipe.training.learning_rate) for method in recipe.methods}
    jobs = [
        _try(recipe, method, number, settings)
        for method in recipe.methods
        for number, settings in enumerate(tries(search, method.label, recipe.training.learning_rate))
    ]
    outcomes = {
        job.name: outcome for job, outcome in run_jobs(jobs, attempt, processes=processes, description="search")
    }
    records: list[dict[str, Any]] = []
    best: dict[str, tuple[float, Method, float]] = {}
    by = metric(search)
    for job in jobs:
        found = run.path / "search" / job.name / "metrics.json"
        done = outcomes[job.name] == DONE
        value = read_json(found).get(by, {}).get("value") if done else None
        if done and value is None:
            raise UserError(f"search.metric: {by} is not among what is measured: {', '.join(read_json(found))}")
        settings = {"learning_rate": job.learning_rate, **job.method.options}
        records.append({"method": job.method.label, **settings, "metric": by, "value": value})
        records[-1]["outcome"] = outcomes[job.name]
        if value is None:
            console.print(f"[red]{job.name}: {outcomes[job.name]}[/red]")
        elif job.method.label not in best or _better(by, value, best[job.method.label][0]):
            best[job.method.label] = (value, job.method, job.learning_rate)
    if run.ranks.is_main_process:
        write_json(run.path / "search.json", records)
    return {label: (method, rate) for label, (_, method, rate) in best.items()}


def _try(recipe: LanguageRecipe, method: Method, number: int, settings: dict[str, Any]) -> Job:
    options = {name: value for name, value in settings.items() if name != "learning_rate"}
    tried = replace(method, options={**method.options, **options})
    objectives.load(tried.name, **tried.options)  # a value that an option refuses is the recipe's mistake
    rate = settings["learning_rate"]
    return Job(recipe=recipe, method=tried, seed=recipe.seeds[0], learning_rate=rate, trial=number)


def _better(by: str, value: float, than: float) -> bool:
    lower = by.endswith("_nats") or by in ("brier", "expected_calibration_error")
    return value < than if lower else value > than


def _same_steps(recipe: LanguageRecipe, groups: int, ranks: int) -> LanguageRecipe:
    """The recipe with its length in optimiser steps: methods that leave groups out would otherwise take fewer."""
    training = recipe.training
    if training.steps is not None:
        return recipe
    a_step = training.batch_size * training.gradient_accumulation * ranks
    steps = max(1, math.ceil(math.ceil(groups / a_step) * training.epochs))
    return replace(recipe, training=replace(training, steps=steps, epochs=1.0))


def _opened(job: Job) -> tuple[RunFolder, LanguageModels, LanguageRecipe]:
    """The run as a job sees it, also in a process of its own."""
    training = replace(job.recipe.training, learning_rate=job.learning_rate)
    recipe = replace(job.recipe, training=training, methods=[job.method])
    run = RunFolder(Path(recipe.output))
    return run, LanguageModels(recipe, run), recipe


def _measured(search: Search) -> dict[str, Any]:
    """What of the search a try depends on."""
    found = identity(search)
    return {"by": metric(search), "questions": found.get("questions"), "fraction": search.validation_fraction}


def _labels(recipe: LanguageRecipe) -> list[str]:
    return [method.label for method in recipe.methods]
