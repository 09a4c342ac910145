"""`grkd compare` for language models: every method tuned with the same number of trials, then run with every seed."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grkd import objectives
from grkd.compare.student_job import job_at
from grkd.console import console
from grkd.data.language import Group
from grkd.files import digest, write_json
from grkd.language import evaluate
from grkd.language.context import LanguageContext
from grkd.language.rank_metrics import rank_metrics
from grkd.language.score import read_groups
from grkd.language.search import Job, LanguageSearch, metric
from grkd.language.shared_questions import say_shared_questions
from grkd.language.stages import before_training, distil
from grkd.language.train import trained_student, training_inputs
from grkd.recipe import LanguageRecipe, Method
from grkd.run.folder import RunFolder, identity
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect
from grkd.run.training import drop_checkpoints


def compare_language(recipe: LanguageRecipe, run: RunFolder, *, processes: int) -> dict[str, str]:
    """Shared stages, the search, the final runs. Returns the outcome of each final run.

    Every run takes the same number of optimiser steps on the same groups with the same teacher scores, or with
    training.minutes the same time, by a clock that also counts what other processes take of the device. A method's
    final runs begin when its own trials have ended. After every job, search.json and results.json say how far the
    comparison is.
    """
    context = before_training(recipe, run)
    groups = read_groups(run, "train")
    recipe = _same_steps(recipe, len(groups), run.ranks.num_processes)
    context = context.with_recipe(recipe)
    search = None
    if recipe.search is not None:
        harm = "the search rewards answers learnt by heart"
        say_shared_questions(context, "search", lambda: groups, harm=harm)
        keys = {method.label: _key(context, method, groups) for method in recipe.methods}
        search = LanguageSearch(recipe, run, keys)
    elif run.ranks.is_main_process:
        (run.path / "search.json").unlink(missing_ok=True)  # of an earlier recipe
    queue = [job for method in recipe.methods for job in _ready(recipe, search, method)]
    queue.sort(key=partial(_priority, run))
    outcomes: dict[str, str] = {}
    with closing(run_jobs(queue, perform, processes=processes, description="compare")) as ended:
        for job, outcome in ended:
            outcomes[job.name] = outcome
            if outcome != DONE:
                console.print(f"[red]{job.name}: {outcome}[/red]")
            if job.trial is not None:
                assert search is not None
                search.tell(job, outcome)
                search.write()
                method = next(each for each in recipe.methods if each.label == job.method.label)
                queue += _ready(recipe, search, method)
                queue.sort(key=partial(_priority, run))
            status = _status(recipe, search, outcomes)
            if run.ranks.is_main_process:
                collect(recipe, run.path, status)
    if search is not None:
        search.write()
    return _status(recipe, search, outcomes)


def _ready(recipe: LanguageRecipe, search: LanguageSearch | None, method: Method) -> list[Job]:
    """What a method can run now: its next trials, or its final runs once its search is over."""
    if search is None:
        return _finals(recipe, method, recipe.training.learning_rate)
    if trials := search.next_jobs(method):
        return trials
    best = search.best(method)
    return [] if best is None else _finals(recipe, best.method, best.learning_rate)


def perform(job: Job) -> None:
    """Do a job, in this process or one of its own: train and evaluate the student of a final run, or a trial."""
    recipe = _of_job(job)
    context = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
    if job.trial is None:
        distil(context, job.method, job.seed)
    else:
        _attempt(context, job)


def _attempt(context: LanguageContext, job: Job) -> None:
    """Train a student on all but the validation groups, measure it there, and keep only the metrics."""
    search = context.recipe.search
    assert search is not None
    groups = read_groups(context.run, "train")
    inputs = {**training_inputs(context, job.method, job.seed), "search": _measured(context.recipe, groups)}

    def make(work: Path) -> None:
        fit, validation = split_groups(groups, search.validation_fraction)
        description = f"search {job.name}"
        student = trained_student(context, job.method, job.seed, fit, work, description=description, trial=True).eval()
        if metric(search) == "exact_match":
            student = evaluate.to_answer(context, student)
            metrics = evaluate.answered(context, student, search.questions, work / "exact_match.json")
        else:
            metrics = rank_metrics(context, evaluate.to_rank(student), validation, description=description)
        if context.run.ranks.is_main_process:
            write_json(work / "metrics.json", metrics)
            drop_checkpoints(work)

    context.run.stage(f"search/{job.name}", inputs, make)


def split_groups(groups: Sequence[Group], fraction: float) -> tuple[list[Group], list[Group]]:
    """(fit, validation): which prompts are set aside depends on their ids alone. At least one on each side.

    Equal prompts and turns of one conversation stay on one side, unless there is no other.
    """
    clusters = _conversations(groups)
    if len(clusters) < 2:
        clusters = [[group.id] for group in groups]
    order = sorted(clusters, key=lambda ids: hashlib.sha256(min(ids).encode()).digest())
    count = min(max(round(fraction * len(clusters)), 1), len(clusters) - 1)
    aside = {name for ids in order[:count] for name in ids}
    return [group for group in groups if group.id not in aside], [group for group in groups if group.id in aside]


def _conversations(groups: Sequence[Group]) -> list[list[str]]:
    """Ids of the groups by conversation; those of which none is known are alone."""
    found: dict[Any, list[str]] = {}
    for group in groups:
        found.setdefault(group.id if group.conversation is None else group.conversation, []).append(group.id)
    return list(found.values())


def _finals(recipe: LanguageRecipe, method: Method, learning_rate: float) -> list[Job]:
    return [Job(recipe=recipe, method=method, seed=seed, learning_rate=learning_rate) for seed in recipe.seeds]


def _priority(run: RunFolder, job: Job) -> tuple[bool, int, int, bool]:
    """Sort key of a job, smallest first.

    (1) Jobs already on disk, which are only read again. (2) Lower place of the seed in the recipe, so that every method
    gets its first seed before any gets a second. (3) Methods that sample during training: they are the slowest.
    (4) Final runs before trials.
    """
    is_trial, objective = job.trial is not None, objectives.load(job.method.name, **job.method.options)
    on_disk = (run.path / ("search" if is_trial else "evaluate") / job.name).exists()
    sampling = (objective.on_policy > 0) + (objective.teacher_mixed_in > 0)
    return not on_disk, 0 if is_trial else job.recipe.seeds.index(job.seed), -sampling, is_trial


def _status(recipe: LanguageRecipe, search: LanguageSearch | None, outcomes: Mapping[str, str]) -> dict[str, str]:
    """The outcome of every final run, as far as it is known."""
    status: dict[str, str] = {}
    for method in recipe.methods:
        names = [f"{method.label}-seed{seed}" for seed in recipe.seeds]
        known = any(name in outcomes for name in names)
        without = NOT_YET if search is None or known else search.without_best(method)
        status |= {name: outcomes.get(name, without) for name in names}
    return status


def _key(context: LanguageContext, method: Method, groups: Sequence[Group]) -> str:
    """Digest of what a method's trials depend on beside their settings."""
    job = job_at(Job, context.recipe, method, {"learning_rate": 1.0}, 0)
    inputs = training_inputs(context.with_recipe(_of_job(job)), method, job.seed)
    return digest({**inputs, "search": _measured(context.recipe, groups)})


def _same_steps(recipe: LanguageRecipe, groups: int, ranks: int) -> LanguageRecipe:
    """The recipe with its length in optimiser steps: methods that leave groups out would otherwise take fewer."""
    training = recipe.training
    if training.steps is not None or training.minutes is not None:
        return recipe
    steps = training.steps_for(groups, processes=ranks)
    return replace(recipe, training=replace(training, steps=steps, epochs=1.0))


def _of_job(job: Job) -> LanguageRecipe:
    """The recipe with the job's method, learning rate and number of steps."""
    training, search = replace(job.recipe.training, learning_rate=job.learning_rate), job.recipe.search
    if job.trial is not None and search is not None:
        share = search.steps_share
        if training.minutes is not None:
            training = replace(training, minutes=share * training.minutes)
        elif training.steps is not None:
            training = replace(training, steps=max(1, round(share * training.steps)))
    return replace(job.recipe, training=training, methods=[job.method])


def _measured(recipe: LanguageRecipe, groups: Sequence[Group]) -> dict[str, Any]:
    """What of the search, of the evaluation and of the way to split a trial depends on."""
    search, evaluation = recipe.search, recipe.evaluation
    assert search is not None
    by = metric(search)
    name = "answer_tokens" if by == "exact_match" else "top_k"
    # Earlier versions split conversations: where there are none, their trials are the same.
    together = {"together": "conversations"} if len(_conversations(groups)) < len(groups) else {}
    return {
        **together,
        "by": by,
        "questions": identity(search).get("questions"),
        "fraction": search.validation_fraction,
        name: getattr(evaluation, name),
    }
