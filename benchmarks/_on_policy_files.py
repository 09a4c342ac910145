"""What the on-policy experiment keeps: figures of one or several sittings, and the run's folder as an archive."""

import argparse
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import about
from benchmarks._on_policy_jobs import correct
from benchmarks._on_policy_starts import SIDES, start_of
from grkd.environment import environment
from grkd.files import file_digest, read_json, whole_file
from grkd.recipe import LanguageRecipe
from grkd.run.jobs import DONE
from grkd.run.results import collect


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


def earlier(out: Path, resume_from: Path | None, file: str) -> dict[str, Any]:
    """What earlier sittings found: in `out`, else in `resume_from`."""
    for place in (out, resume_from):
        if place is not None and (place / file).exists():
            found: dict[str, Any] = read_json(place / file)
            return {**found, "failed": {}}
    return {"questions": [], "sittings": [], "trials": {}, "plan": {}, "runs": {}, "failed": {}}


def check_start(folder: Path, found: dict[str, Any]) -> None:
    """Raises SystemExit where runs of earlier sittings had another start of the student: runs share one start."""
    known = {found["sittings"][run["sitting"]]["starts"]["student"] for run in found["runs"].values()}
    own = _start_digest(folder, "student")
    if known - {own}:
        sys.exit(
            f"{folder}: its start of the student is {own}, that of the runs in the file of results {', '.join(known)}; "
            "give the folder of their start, or start again with another --out and no --resume-from"
        )


def _start_digest(folder: Path, side: str) -> str:
    return file_digest(start_of(folder, side) / "model.safetensors")[:16]


def sitting(run_folder: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Where and from what the runs of a sitting were made; their budget is noted when it is known."""
    on_gpu = torch.cuda.is_available()
    words = [f"--experiment {options.experiment}", f"--trial-steps {options.trial_steps}", *options.overrides]
    words += [] if options.budget is None else [f"--budget {options.budget:g}"]
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
        "starts": {side: _start_digest(folder, side) for side in SIDES},
        **sides,
    }


def merged(places: list[Path], without: Sequence[str], file: str) -> dict[str, Any]:
    """Several --out folders as one, some runs left out. Raises SystemExit if their questions or plans differ.

    Of sittings whose runs are all left out only the first, which made the trials, is kept.
    """
    files = [read_json(place / file if place.is_dir() else place) for place in places]
    found = {**files[0], "sittings": [], "runs": {}}
    for one in files:
        for name in ("questions", "plan"):
            if one[name] != found[name]:
                sys.exit(f"{file}: {name} differ; only sittings that went on from the same trials can be merged")
        first = len(found["sittings"])
        found["sittings"] += one["sittings"]
        moved = {name: {**each, "sitting": each["sitting"] + first} for name, each in one["runs"].items()}
        found["runs"] |= {name: each for name, each in moved.items() if name not in (*found["runs"], *without)}
    used = sorted({0, *(run["sitting"] for run in found["runs"].values())})
    found["sittings"] = [found["sittings"][number] for number in used]
    for name, each in found["runs"].items():
        found["runs"][name] = {**each, "sitting": used.index(each["sitting"])}
    return found
