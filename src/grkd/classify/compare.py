"""`grkd run` and `grkd compare` for classifiers: one path. A comparison adds the search before the final runs."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from grkd.classify.best import keep_best
from grkd.classify.check import check_classifier
from grkd.classify.context import ClassifierContext, in_lockstep
from grkd.classify.evaluate import evaluate_teacher
from grkd.classify.prepare import prepare
from grkd.classify.score import score, score_copies
from grkd.classify.search import metric, search_job, study_of
from grkd.classify.teach import alone, teach
from grkd.classify.train import JobGroup, StudentJob, failure_of, is_trained, note_failure, train_group
from grkd.compare.rounds import best_trials
from grkd.console import console
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect, describe

Until = Literal["teach", "search", "finals"]
Finals = dict[str, list[StudentJob]]


def run_classifier(recipe: ClassifierRecipe, run: RunFolder) -> dict[str, str]:
    """Every method as the recipe writes it, without a search. Returns the outcome of each final run."""
    if recipe.search is not None:
        console.print("search: left out; grkd run trains every method as it is written, grkd compare tunes them")
    context = _shared(recipe, run)
    finals = _as_written(context)
    _run_finals(context, finals, processes=1, deadline=None)
    return _status(context, finals)


def compare_classifier(
    recipe: ClassifierRecipe,
    run: RunFolder,
    *,
    processes: int = 1,
    minutes: float | None = None,
    until: Until = "finals",
) -> dict[str, str]:
    """Data, teacher, search, final runs; what is complete is kept. Returns the outcome of each final run.

    processes: that share the device, each training its students in lock-step. minutes: after which no further students
    are begun (those in training end). until: stop after the teacher or the search.
    Writes search.json and results.json after every group of students, and per final run train/<label>-seed<n>/ and
    evaluate/<label>-seed<n>/metrics.json; at the end the best student is copied to best/.
    Raises UserError for a recipe that does not fit.
    """
    deadline = None if minutes is None else time.time() + 60 * minutes
    context = _shared(recipe, run)
    if until == "teach":
        return {f"{method.label}-seed{seed}": NOT_YET for method in recipe.methods for seed in recipe.seeds}
    finals = _as_written(context) if recipe.search is None else _searched(context, processes, deadline)
    if recipe.search is None and run.ranks.is_main_process:
        (run.path / "search.json").unlink(missing_ok=True)  # of an earlier recipe
    if until == "finals":
        _run_finals(context, finals, processes, deadline)
    return _status(context, finals)


def _shared(recipe: ClassifierRecipe, run: RunFolder) -> ClassifierContext:
    """Everything before the students: mistakes are found first, then data, teacher and its scores."""
    context = ClassifierContext(recipe, run)
    check_classifier(context)
    prepare(context)
    describe(recipe, run)
    with alone(context):
        teach(context)
        score(context)
    score_copies(context)
    evaluate_teacher(context)
    return context


def _as_written(context: ClassifierContext) -> Finals:
    rate = context.recipe.training.learning_rate
    return {
        method.label: [StudentJob(method=method, seed=seed, learning_rate=rate) for seed in context.recipe.seeds]
        for method in context.recipe.methods
    }


def _searched(context: ClassifierContext, processes: int, deadline: float | None) -> Finals:
    """Final runs with the best settings per method that has a best trial."""
    recipe = context.recipe
    assert recipe.search is not None
    main = context.run.ranks.is_main_process
    found = best_trials(
        context.run,
        {method.label: study_of(context, method.label) for method in recipe.methods} if main else {},
        recipe.methods,
        metric=metric(recipe.search),
        job_of=lambda method, trial: search_job(context, method, trial.settings, trial.number),
        train=lambda jobs, failed, note: _train(
            context, jobs, processes, deadline, description="search", failed=failed, note=note
        ),
        deadline=deadline,
    )
    finals = {}
    for method in recipe.methods:
        if method.label in found:
            chosen = search_job(context, method, found[method.label].settings, None)
            finals[method.label] = [replace(chosen, seed=seed) for seed in recipe.seeds]
    return finals


def _run_finals(context: ClassifierContext, finals: Finals, processes: int, deadline: float | None) -> None:
    """A seed of every method before the next seed; then the best is kept."""
    seeds = range(len(context.recipe.seeds))
    jobs = [own[place] for place in seeds for own in finals.values()]

    def note() -> None:
        status = _status(context, finals)
        if context.run.ranks.is_main_process:
            collect(context.recipe, context.run.path, status)

    def failed(job: StudentJob, reason: str) -> None:
        note_failure(context, job, reason)

    _train(context, jobs, processes, deadline, description="train", failed=failed, note=note)
    keep_best(context, [job for job in jobs if is_trained(context, job)])


def _train(
    context: ClassifierContext,
    jobs: Sequence[StudentJob],
    processes: int,
    deadline: float | None,
    *,
    description: str,
    failed: Callable[[StudentJob, str], None],
    note: Callable[[], None],
) -> None:
    """Train the jobs in groups: students of a group see the same batches, so they have the same seed.

    failed: called for every student of a group that ended with an error. note: called after every group.
    """
    recipe = context.recipe
    most = recipe.lockstep.students if in_lockstep(recipe) else 1
    most = max(1, min(most, math.ceil(len(jobs) / processes)))
    seeds = dict.fromkeys(job.seed for job in jobs)
    groups = [
        JobGroup(recipe=recipe, jobs=part, deadline=deadline)
        for seed in seeds
        for part in _evenly([job for job in jobs if job.seed == seed], most)
    ]
    for group, outcome in run_jobs(groups, train_group, processes=processes, description=description):
        if outcome != DONE:
            console.print(f"[red]{', '.join(job.name for job in group.jobs)}: {outcome}[/red]")
            for job in group.jobs:
                failed(job, outcome.removeprefix("failed: "))
        note()


def _evenly(jobs: Sequence[StudentJob], most: int) -> Iterator[tuple[StudentJob, ...]]:
    """Parts of nearly equal size, `most` at most."""
    count = math.ceil(len(jobs) / most)
    for number in range(count):
        yield tuple(jobs[number * len(jobs) // count : (number + 1) * len(jobs) // count])


def _status(context: ClassifierContext, finals: Mapping[str, Sequence[StudentJob]]) -> dict[str, str]:
    """The outcome of every final run, as far as it is known."""
    status = {}
    for method in context.recipe.methods:
        without = _without_final(context, method.label, finals)
        own = {job.name: job for job in finals.get(method.label, ())}
        for seed in context.recipe.seeds:
            name = f"{method.label}-seed{seed}"
            status[name] = _outcome(context, own[name]) if name in own else without
    return status


def _without_final(context: ClassifierContext, label: str, finals: Mapping[str, Sequence[StudentJob]]) -> str:
    """The outcome of the final runs of a method that has none yet."""

    def outcome() -> str:
        reason = None if label in finals else study_of(context, label).why_none()
        return NOT_YET if reason is None else f"failed: every trial of its search failed: {reason}"

    return context.run.from_main(outcome)


def _outcome(context: ClassifierContext, job: StudentJob) -> str:
    if is_trained(context, job) and (context.run.path / "evaluate" / job.name / "metrics.json").exists():
        return DONE
    failure = failure_of(context, job)
    return NOT_YET if failure is None else f"failed: {failure}"
