"""How long a step of each method takes beside all others, and the time that the slowest needs: a pace test.

Nothing of it is a result: no student is kept or asked anything.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._on_policy_jobs import pace_of
from grkd.files import write_json
from grkd.language.context import LanguageContext
from grkd.language.score import read_groups
from grkd.language.search import Job
from grkd.language.train import trained_student
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, run_jobs

FILE = "pace.json"
STEPS = 1050  # of the slowest method in a final run


def measured(jobs: Sequence[Job], *, seconds: float, processes: int) -> dict[str, Any]:
    """label -> seconds per step of a training of `seconds`, in `by_method`; all at the same time.

    Raises RuntimeError if a method fails.
    """
    short = [
        Job(
            recipe=replace(job.recipe, training=replace(job.recipe.training, minutes=seconds / 60)),
            method=job.method,
            seed=job.seed,
            learning_rate=job.learning_rate,
        )
        for job in jobs
    ]
    found: dict[str, Any] = {}
    with closing(run_jobs(list(short), paced, processes=processes, description="pace")) as ended:
        for job, outcome in ended:
            if outcome != DONE:
                raise RuntimeError(f"{job.method.label}: {outcome}")
            pace = pace_of(_folder(job))
            found[job.method.label] = pace
            parts = ", ".join(f"{name} {ms:.0f}" for name, ms in pace["ms"].items())
            print(f"{job.method.label:28} {1000 * pace['seconds_per_step']:6.0f} ms per step ({parts})", flush=True)
            shutil.rmtree(_folder(job))
    return {"seconds": seconds, "processes": processes, "by_method": found}


def paced(job: Job) -> None:
    """Train a student, and leave its log alone."""
    folder = _folder(job)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    training = replace(job.recipe.training, learning_rate=job.learning_rate)
    recipe = replace(job.recipe, training=training, methods=[job.method])
    context = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
    groups = read_groups(context.run, "train")
    trained_student(context, job.method, job.seed, groups, folder, description=f"pace {job.name}", trial=True)


def budget(found: dict[str, Any], *, most: float) -> float:
    """Whole seconds in which the slowest method takes STEPS steps, at most `most`."""
    slowest = max(pace["seconds_per_step"] for pace in found["by_method"].values())
    return float(int(min(STEPS * slowest + 1, most)))


def write(found: dict[str, Any], out: Path, *, seconds: float) -> None:
    """Print the time of a final run and the steps that it means, and note all of it in pace.json."""
    for label, pace in found["by_method"].items():
        print(f"{label:28} {seconds / pace['seconds_per_step']:6.0f} steps in {seconds:.0f} s")
    print(f"budget: {seconds:.0f} s")
    write_json(out / FILE, {**found, "budget_seconds": seconds, "wanted_steps": STEPS})


def _folder(job: Job) -> Path:
    return Path(job.recipe.output) / "pace" / job.name
