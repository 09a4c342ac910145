"""How well `grkd plan` foretells: memory and time of five pairs, planned and then run.

    python -m benchmarks.plan [--only tiny,small] [--steps 60] [--date YYYY-MM-DD] [--commit HASH] [--out FOLDER]
        [--toy | --cpu] [--clock cpu]
    python -m benchmarks.plan table

A pair is a teacher and a student with random weights, made from the configs below, with a word tokenizer and random
conversations of different lengths. Each is planned (a miniature of the run, a few prompts and steps), then run, both in
a process of its own, as `grkd plan` and `grkd run` are; the time begins once their libraries are imported. Rows: pair,
planned_seconds, seconds (of the run, from its first check to its report), planned_peak_gib and peak_gib in training
(allocated on the GPU; of the process on a CPU), model_gib (the model of memory alone), plan_took_seconds, stages and
taken (seconds by stage, planned and taken). --toy: models of 32 dimensions, for a CPU. --cpu: five other pairs
that a CPU can run (language models, a cache, SmolLM2, a classifier, a ranker; DATE-plan-cpu.json). --clock cpu: seconds
of the process in place of the wall's, where other work runs on the machine. DATE-plan.json in FOLDER is written after
each pair.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import about
from benchmarks._plan_cases import PAIRS, SMALL, TOY, made
from grkd import recipe
from grkd.console import console
from grkd.files import write_json
from grkd.language import stages as language_stages
from grkd.pipeline import run as pipeline
from grkd.planning import language, steps  # noqa: F401  (what either task needs is imported before the time begins)
from grkd.planning.make import make_plan
from grkd.planning.peak import peak_from_now
from grkd.recipe import Recipe
from grkd.run.device import device
from grkd.run.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
GIB = 2**30


def planned(spec: Recipe) -> dict[str, Any]:
    """What `grkd plan` says."""
    begin = time.perf_counter()
    plan = make_plan(spec, measured=True)
    return {
        "planned_seconds": plan.seconds,
        "planned_peak_gib": None if plan.peak is None else plan.peak / GIB,
        "model_gib": sum(plan.memory.values()) / GIB,
        "plan_took_seconds": time.perf_counter() - begin,
        "stages": {one.name: one.seconds * one.times for one in plan.stages},
    }


def taken(spec: Recipe) -> dict[str, Any]:
    """What the run then takes: together, by stage, and the peak of its training."""
    by_stage: dict[str, float] = {}
    peaks: list[int] = []
    real_stage, real_train = RunFolder.stage, language_stages.train_student

    def timed(run: RunFolder, name: str, *arguments: Any, **options: Any) -> Path:
        begin = time.perf_counter()
        found = real_stage(run, name, *arguments, **options)
        by_stage[name] = time.perf_counter() - begin
        return found

    def watched(*arguments: Any, **options: Any) -> Path:
        peak = peak_from_now(device(spec.device))
        found = real_train(*arguments, **options)
        peaks.append(peak())
        return found

    RunFolder.stage, language_stages.train_student = timed, watched  # type: ignore[method-assign]
    whole = peak_from_now(device(spec.device))
    begin = time.perf_counter()
    try:
        assert pipeline.run(spec) == 0
    finally:
        RunFolder.stage, language_stages.train_student = real_stage, real_train  # type: ignore[method-assign]
    return {
        "seconds": time.perf_counter() - begin,
        "peak_gib": (max(peaks) if peaks else whole()) / GIB,
        "taken": by_stage,
    }


def work(what: str, folder: Path, clock: str = "wall") -> None:
    """One half of a pair, in this process, once a line comes from the parent; what was found goes to WHAT.json."""
    for name in ("matplotlib.pyplot", "sentence_transformers", "transformers.trainer"):
        with suppress(ImportError):
            import_module(name)
    sys.stdin.readline()
    if clock == "cpu":
        time.perf_counter = time.process_time  # what plan and run measure by
    spec = recipe.read(folder / "recipe.yaml")
    write_json(folder / f"{what}.json", planned(spec) if what == "planned" else taken(spec))


def started(place: Path, clock: str) -> dict[str, "subprocess.Popen[bytes]"]:
    """The two processes of a pair, which import their libraries and wait."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.plan"]
    return {
        what: subprocess.Popen(
            [*command, what, "--folder", str(place), "--clock", clock], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for what in ("planned", "taken")
    }


def measured(name: str, place: Path, processes: dict[str, "subprocess.Popen[bytes]"]) -> dict[str, Any]:
    """A pair planned, and then run."""
    row: dict[str, Any] = {"pair": name}
    for what, process in processes.items():
        process.communicate(b"go\n")
        row |= json.loads((place / f"{what}.json").read_text())
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """What was planned beside what was, in Markdown."""
    lines = ["| pair | planned, s | took, s | off | planned, GiB | took, GiB | off |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["pair"]]
        for planned, real in (("planned_seconds", "seconds"), ("planned_peak_gib", "peak_gib")):
            if row[planned] is None or row[real] is None:
                cells += ["-", "-", "-"]
                continue
            cells += [f"{row[planned]:.2f}", f"{row[real]:.2f}", f"{row[planned] / row[real] - 1:+.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("what", nargs="?", choices=["table", "planned", "taken"])
    add("--folder", type=Path, help=argparse.SUPPRESS)  # of a pair, for the processes that are started
    add("--only")
    add("--steps", type=int, default=60)
    add("--date", default=str(datetime.datetime.now(datetime.UTC).date()))
    add("--commit", default="")
    add("--out", type=Path, default=RESULTS)
    add("--toy", action="store_true")
    add("--cpu", action="store_true")
    add("--clock", choices=["wall", "cpu"], default="wall")
    settings = parser.parse_args()
    if settings.what in ("planned", "taken"):
        console.quiet = True
        work(settings.what, settings.folder, settings.clock)
        return
    kind = "plan-cpu" if settings.cpu else "plan"
    path = settings.out / f"{settings.date}-{kind}.json"
    if settings.what == "table":
        print(table(json.loads(sorted(settings.out.glob(f"*-{kind}.json"))[-1].read_text())["rows"]))
        return
    names = settings.only.split(",") if settings.only else list(SMALL if settings.cpu else PAIRS)
    with tempfile.TemporaryDirectory(prefix="grkd-plan-bench-") as place:
        folders = {name: Path(place) / name for name in names}
        processes = {
            name: started(folder, settings.clock) for name, folder in folders.items()
        }  # they import side by side
        try:
            for name, folder in folders.items():
                if settings.cpu:
                    SMALL[name](folder, settings.steps)
                else:
                    made(folder, TOY if settings.toy else PAIRS[name], steps=settings.steps)
            rows = list(_rows(settings, path, folders, processes))
        finally:
            for process in (one for pair in processes.values() for one in pair.values()):
                process.kill()
                process.wait()
    print(table(rows))


def _rows(
    settings: argparse.Namespace,
    path: Path,
    folders: dict[str, Path],
    processes: dict[str, dict[str, "subprocess.Popen[bytes]"]],
) -> Iterator[dict[str, Any]]:
    """Every pair's; the file is written after each, and keeps other pairs of the same commit."""
    kept = json.loads(path.read_text()) if path.exists() else {"about": {}, "rows": []}
    same = settings.commit and kept["about"].get("commit") == settings.commit
    rows = [row for row in kept["rows"] if same and row["pair"] not in folders]
    for name, folder in folders.items():
        begin = time.perf_counter()
        try:
            rows.append(measured(name, folder, processes[name]))
        except Exception:  # one pair must not cost the others
            traceback.print_exc()
            continue
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        settings.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"about": about_run(settings), "rows": rows})
        yield rows[-1]


def about_run(settings: argparse.Namespace) -> dict[str, Any]:
    """The machine, the date, the commit and the command."""
    command = " ".join(["python -m benchmarks.plan", *sys.argv[1:]])
    return {**about(settings.date, command, gpu=torch.cuda.is_available()), "commit": settings.commit}


if __name__ == "__main__":
    main()
