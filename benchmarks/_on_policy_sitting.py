"""The jobs of one sitting of an on-policy experiment: what fits into its time, in order, results after each."""

import argparse
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks._on_policy_experiments import EXPERIMENTS, Experiment
from benchmarks._on_policy_files import pack
from benchmarks._on_policy_jobs import (
    final_jobs,
    final_kept,
    in_turn,
    needed,
    planned,
    seconds_taken,
    trial_jobs,
    trial_kept,
    whole_seeds,
    work,
)
from grkd.files import write_json
from grkd.language.search import Job
from grkd.recipe import LanguageRecipe
from grkd.run.jobs import DONE, run_jobs

_TRIAL = 25.0  # seconds of a trial


def perform_jobs(
    recipe: LanguageRecipe, folder: Path, found: dict[str, Any], out: Path, options: argparse.Namespace, *, ends: float
) -> int:
    """Trials, then final runs; the file of results after each. No job begins that would end after `ends`.

    Returns the number of final runs that are left.
    """
    experiment = EXPERIMENTS[options.experiment]
    budget = budget_of(recipe, found, options, ends=ends)
    found["sittings"][-1]["budget_seconds"] = budget
    known: set[str] = set()
    running: set[str] = set()
    queue: list[Job] = []

    def refill() -> None:
        """Add what can begin now, in order, and drop what would end too late."""
        found["plan"] = planned(recipe, found["trials"])
        more = trial_jobs(recipe, found["trials"], steps=options.trial_steps)
        more += final_jobs(recipe, found["plan"], found["runs"], budget=budget, experiment=experiment)
        more = [job for job in more if job.name not in known and options.only in (None, job.method.label)]
        time_left = ends - time.monotonic()
        if experiment.side_by_side:
            slowest = max((_seconds_of(job, found, experiment) for job in more), default=0.0)
            more = [] if running else whole_seeds(more, seconds=slowest, time_left=time_left)
            running.update(job.name for job in more)
        known.update(job.name for job in more)
        jobs = sorted(queue + more, key=lambda job: in_turn(recipe, job, experiment))
        queue[:] = [job for job in jobs if job.name in running or _seconds_of(job, found, experiment) < time_left]

    refill()
    with closing(run_jobs(queue, work, processes=options.processes, description="on policy")) as ended:
        for job, outcome in ended:
            running.discard(job.name)
            if job.trial is not None:
                found["trials"][job.name] = trial_kept(folder, job, outcome)
            elif outcome == DONE:
                found["runs"][job.name] = {**final_kept(folder, job), "sitting": len(found["sittings"]) - 1}
            else:
                found["failed"][job.name] = outcome
            took = seconds_taken(folder, job) if outcome == DONE else None
            print(f"{job.name}: {outcome}, {_shown(job, found)}, {took or 0:.0f} s from end to end", flush=True)
            refill()
            write_json(out / experiment.file, found)
            if job.trial is None and len(found["runs"]) % len(recipe.methods) == 0:
                pack(recipe, folder, found, out)
    write_json(out / experiment.file, found)
    return len(needed(recipe, found["runs"]))


def budget_of(recipe: LanguageRecipe, found: dict[str, Any], options: argparse.Namespace, *, ends: float) -> float:
    """Seconds of training of every final run: --budget, else that of earlier runs or of the pace test, else what fits
    them into --seconds: from 20 to 60 s, in whole seconds; 60 without --seconds.
    """
    if options.budget is not None:
        return float(options.budget)
    known = [sitting["budget_seconds"] for sitting in found["sittings"] if "budget_seconds" in sitting]
    if known and found["runs"]:
        return float(known[-1])
    if "pace" in found:
        return float(found["pace"]["budget_seconds"])
    many = -(-len(needed(recipe, {}, EXPERIMENTS[options.experiment].last)) // options.processes)
    extra = EXPERIMENTS[options.experiment].extra_seconds
    each = (ends - time.monotonic()) / max(1, many) - extra
    return float(int(min(60.0, max(20.0, each))))


def _seconds_of(job: Job, found: dict[str, Any], experiment: Experiment) -> float:
    """What a job will take, from end to end."""
    if job.trial is not None:
        return _TRIAL
    if job.recipe.training.minutes is not None:
        more = [run["took"] - run["seconds"] for run in found["runs"].values() if run.get("took")]
        return 60 * job.recipe.training.minutes + max(more, default=experiment.extra_seconds)
    assert job.recipe.training.steps is not None
    own = job.method.label.removesuffix("-long")
    paces = [run["seconds"] / run["steps"] for run in found["runs"].values() if run["method"] == own]
    return job.recipe.training.steps * max(paces, default=0.2) + experiment.extra_seconds


def _shown(job: Job, found: dict[str, Any]) -> str:
    if job.trial is not None:
        value = found["trials"][job.name]["value"]
        return f"rate {job.learning_rate:g}: validation {100 * value:.1f} %" if value is not None else "no value"
    if job.name not in found["runs"]:
        return "failed"
    own = found["runs"][job.name]
    return f"{100 * own['metrics']['exact_match']['value']:.1f} %, {own['steps']} steps in {own['seconds']:.0f} s"
