"""`grkd compare` for language models: every method tuned with the same number of tries, then run with every seed."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grkd import objectives
from grkd.console import console
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.files import write_json
from grkd.language import evaluate as language_evaluation
from grkd.language import score as language_scores
from grkd.language.context import LanguageModels
from grkd.language.search import Job, all_tries, best_try, metric, search_records
from grkd.language.shared import shared_stages
from grkd.language.train import train_student, trained_student, training_inputs
from grkd.recipe import LanguageRecipe, Method
from grkd.run.folder import RunFolder, identity
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect
from grkd.run.training import drop_checkpoints


def compare_language(recipe: LanguageRecipe, run: RunFolder, *, processes: int) -> dict[str, str]:
    """Shared stages, the search, the runs that count. Returns the outcome of each of the latter.

    Every run takes the same number of optimiser steps on the same groups with the same teacher scores. A method's runs
    that count begin when its own tries have ended. After every try and run, search.json and results.json say how far
    the comparison is.
    """
    _check_metric(recipe)
    shared_stages(recipe, run)
    recipe = _same_steps(recipe, len(language_scores.read_groups(run, "train")), run.ranks.num_processes)
    tries, rate = all_tries(recipe), recipe.training.learning_rate
    if not tries and run.ranks.is_main_process:
        (run.path / "search.json").unlink(missing_ok=True)  # an older recipe's
    queue = list(tries) or [job for method in recipe.methods for job in _finals(recipe, method, rate)]
    queue.sort(key=partial(_turn, run))
    outcomes: dict[str, str] = {}
    with closing(run_jobs(queue, perform, processes=processes, description="compare")) as ended:
        for job, outcome in ended:
            outcomes[job.name] = outcome
            if outcome != DONE:
                console.print(f"[red]{job.name}: {outcome}[/red]")
            if job.trial is not None:
                own = [each for each in tries if each.method.label == job.method.label]
                if best := best_try(own, outcomes, run):
                    queue += _finals(recipe, best.method, best.learning_rate)
                    queue.sort(key=partial(_turn, run))
            if run.ranks.is_main_process:
                if tries:
                    write_json(run.path / "search.json", search_records(tries, outcomes, run))
                collect(recipe, run.path, _status(recipe, tries, outcomes))
    return _status(recipe, tries, outcomes)


def perform(job: Job) -> None:
    """Do a job, in this process or one of its own."""
    (final if job.trial is None else attempt)(job)


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
    inputs = {**training_inputs(recipe, run, models, job.method, job.seed), "search": _measured(recipe)}

    def make(work: Path) -> None:
        fit, validation = split_groups(language_scores.read_groups(run, "train"), search.validation_fraction)
        student = trained_student(
            recipe, run, models, job.method, job.seed, fit, work, description=f"search {job.name}"
        )
        student = student.eval()
        if metric(search) == "exact_match":
            student = language_evaluation.to_answer(recipe, models, student)
            metrics = language_evaluation.answered(recipe, models, student, search.questions, work / "exact_match.json")
        else:
            metrics = language_evaluation.rank_metrics(
                recipe,
                run,
                models,
                language_evaluation.to_rank(student),
                validation,
                description=f"search {job.name}",
            )
        write_json(work / "metrics.json", metrics)
        drop_checkpoints(work)

    run.stage(f"search/{job.name}", inputs, make)


def split_groups(groups: Sequence[Group], fraction: float) -> tuple[list[Group], list[Group]]:
    """(fit, validation): which prompts are set aside depends on their ids alone. At least one on each side."""
    order = sorted(groups, key=lambda group: hashlib.sha256(group.id.encode()).digest())
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    aside = {group.id for group in order[:count]}
    return [group for group in groups if group.id not in aside], [group for group in groups if group.id in aside]


def _finals(recipe: LanguageRecipe, method: Method, learning_rate: float) -> list[Job]:
    return [Job(recipe=recipe, method=method, seed=seed, learning_rate=learning_rate) for seed in recipe.seeds]


def _turn(run: RunFolder, job: Job) -> tuple[bool, int, int, bool]:
    """What is least is done first: what an earlier command left (which is kept), then a seed of every method before the
    next, the methods that sample in training before the others (their runs are the longest), runs before tries."""
    found = run.path / ("evaluate" if job.trial is None else "search") / job.name
    objective = objectives.load(job.method.name, **job.method.options)
    slow = (objective.on_policy > 0) + (objective.teacher_mixed_in > 0)
    place = job.recipe.seeds.index(job.seed) if job.trial is None else 0
    return not found.exists(), place, -slow, job.trial is not None


def _status(recipe: LanguageRecipe, tries: Sequence[Job], outcomes: Mapping[str, str]) -> dict[str, str]:
    """The outcome of every run that counts, as far as it is known."""
    status = {}
    for method in recipe.methods:
        own = {outcomes.get(job.name, NOT_YET) for job in tries if job.method.label == method.label}
        without = "failed: no try ended" if own and not own & {DONE, NOT_YET} else NOT_YET
        for seed in recipe.seeds:
            name = f"{method.label}-seed{seed}"
            status[name] = outcomes.get(name, without)
    return status


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
    training, search = replace(job.recipe.training, learning_rate=job.learning_rate), job.recipe.search
    if job.trial is not None and search is not None and training.steps is not None:
        training = replace(training, steps=max(1, round(search.steps_share * training.steps)))
    recipe = replace(job.recipe, training=training, methods=[job.method])
    run = RunFolder(Path(recipe.output))
    return run, LanguageModels(recipe, run), recipe


def _check_metric(recipe: LanguageRecipe) -> None:
    """Raises UserError for a search by what is not measured, before anything is trained."""
    if recipe.search is None:
        return
    by, answers = metric(recipe.search), ["exact_match"] if recipe.search.questions else []
    known = [*answers, *language_evaluation.MEASURED]
    if by not in known:
        raise UserError(f"search.metric: {by} is not among what is measured: {', '.join(known)}")


def _measured(recipe: LanguageRecipe) -> dict[str, Any]:
    """What of the search and of the evaluation a try depends on."""
    search, evaluation = recipe.search, recipe.evaluation
    assert search is not None
    by = metric(search)
    of_answers = {"answer_tokens": evaluation.answer_tokens}
    of_ranks = {"top_k": evaluation.top_k}
    return {
        "by": by,
        "questions": identity(search).get("questions"),
        "fraction": search.validation_fraction,
        **(of_answers if by == "exact_match" else of_ranks),
    }
