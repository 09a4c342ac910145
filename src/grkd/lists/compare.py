"""`grkd run` and `grkd compare` for lists: one path. A comparison adds the search before the final runs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from grkd.compare.rounds import best_trials
from grkd.console import console
from grkd.files import digest, read_json, write_json
from grkd.lists.best import keep_best
from grkd.lists.check import check_rank
from grkd.lists.context import RankContext
from grkd.lists.evaluate import evaluate_teacher
from grkd.lists.prepare import prepare
from grkd.lists.score import score
from grkd.lists.train import StudentJob, check_metric, evaluate_before, job_at, metric, student_inputs, study_of
from grkd.lists.train import train_student as work
from grkd.recipe import RankRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect, describe

Until = Literal["teach", "search", "finals"]
Finals = dict[str, list[StudentJob]]


def run_lists(recipe: RankRecipe, run: RunFolder) -> dict[str, str]:
    """Every method as the recipe writes it, without a search. Returns the outcome of each final run."""
    if recipe.search is not None:
        console.print("search: left out; grkd run trains every method as it is written, grkd compare tunes them")
    context = _shared(recipe, run)
    finals = _as_written(context)
    _run_finals(context, finals, processes=1, deadline=None)
    return _status(context, finals)


def compare_lists(
    recipe: RankRecipe,
    run: RunFolder,
    *,
    processes: int = 1,
    minutes: float | None = None,
    until: Until = "finals",
) -> dict[str, str]:
    """Lists, teacher, search, final runs; what is complete is kept. Returns the outcome of each final run.

    processes: students trained at a time. minutes: after which no further student is begun. until: stop after the
    teacher or the search. Writes search.json and results.json after every student; the best one is copied to best/.
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


def _shared(recipe: RankRecipe, run: RunFolder) -> RankContext:
    """Everything before the students: mistakes are found first, then lists, the teacher's scores and the baselines."""
    context = RankContext(recipe, run)
    check_rank(context)
    prepare(context)
    describe(recipe, run)
    if recipe.search is not None:
        check_metric(metric(context))
    score(context)
    evaluate_teacher(context)
    evaluate_before(context)
    return context


def _as_written(context: RankContext) -> Finals:
    settings = {"learning_rate": context.recipe.training.learning_rate}
    return {
        method.label: [replace(job_at(context, method, settings, None), seed=seed) for seed in context.recipe.seeds]
        for method in context.recipe.methods
    }


def _searched(context: RankContext, processes: int, deadline: float | None) -> Finals:
    """Final runs with the best settings per method that has a best trial."""
    recipe = context.recipe
    main = context.run.ranks.is_main_process
    found = best_trials(
        context.run,
        {method.label: study_of(context, method.label) for method in recipe.methods} if main else {},
        recipe.methods,
        metric=metric(context),
        job_of=lambda method, trial: job_at(context, method, trial.settings, trial.number),
        train=lambda jobs, failed, note: _train(
            jobs, processes, deadline, description="search", failed=failed, note=note
        ),
        deadline=deadline,
    )
    finals = {}
    for method in recipe.methods:
        if method.label in found:
            chosen = job_at(context, method, found[method.label].settings, None)
            finals[method.label] = [replace(chosen, seed=seed) for seed in recipe.seeds]
    return finals


def _run_finals(context: RankContext, finals: Finals, processes: int, deadline: float | None) -> None:
    """A seed of every method before the next seed; then the best is kept."""
    seeds = range(len(context.recipe.seeds))
    jobs = [own[place] for place in seeds for own in finals.values()]

    def note() -> None:
        status = _status(context, finals)
        if context.run.ranks.is_main_process:
            collect(context.recipe, context.run.path, status)

    def failed(job: StudentJob, reason: str) -> None:
        if context.run.ranks.is_main_process:
            path = context.run.path / "train" / f"{job.name}.failure.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"failure": reason, "key": digest(student_inputs(context, job))})

    _train(jobs, processes, deadline, description="train", failed=failed, note=note)
    keep_best(context, [job for job in jobs if is_trained(context, job)])


def _train(
    jobs: Sequence[StudentJob],
    processes: int,
    deadline: float | None,
    *,
    description: str,
    failed: Callable[[StudentJob, str], None],
    note: Callable[[], None],
) -> None:
    """Train the jobs. failed: called for each that ended with an error. note: called after each."""
    queue = list(jobs)
    for job, outcome in run_jobs(queue, work, processes=processes, description=description):
        if outcome != DONE:
            console.print(f"[red]{job.name}: {outcome}[/red]")
            failed(job, outcome.removeprefix("failed: "))
        note()
        if deadline is not None and time.time() > deadline:
            queue.clear()


def is_trained(context: RankContext, job: StudentJob) -> bool:
    """Whether the student of a final run is on disk and measured, made from the same settings, lists and teacher."""
    complete = context.run.complete(f"train/{job.name}", student_inputs(context, job))
    return complete and (context.run.path / "evaluate" / job.name / "metrics.json").exists()


def _status(context: RankContext, finals: Mapping[str, Sequence[StudentJob]]) -> dict[str, str]:
    """The outcome of every final run, as far as it is known."""
    status = {}
    for method in context.recipe.methods:
        own = {job.name: job for job in finals.get(method.label, ())}
        for seed in context.recipe.seeds:
            name = f"{method.label}-seed{seed}"
            status[name] = _outcome(context, own[name]) if name in own else _without_final(context, method.label)
    return status


def _without_final(context: RankContext, label: str) -> str:
    """The outcome of the final runs of a method whose search is not over, or has no trial with a value."""

    def outcome() -> str:
        reason = study_of(context, label).why_none()
        return NOT_YET if reason is None else f"failed: every trial of its search failed: {reason}"

    return context.run.from_main(outcome)


def _outcome(context: RankContext, job: StudentJob) -> str:
    if is_trained(context, job):
        return DONE
    path = context.run.path / "train" / f"{job.name}.failure.json"
    if not path.exists():
        return NOT_YET
    found = read_json(path)
    return f"failed: {found['failure']}" if found["key"] == digest(student_inputs(context, job)) else NOT_YET
