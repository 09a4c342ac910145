"""The classification experiments: run recipes side by side, keep their results, and make the page of tables from them.

python -m benchmarks.classification run recipes/classification/tiny-*.yaml --data DIR [--minutes 8] [--until search]
python -m benchmarks.classification bundle results.tgz         what the next sitting goes on from, no large files
python -m benchmarks.classification keep                       copies results to benchmarks/results/classification/
python -m benchmarks.classification table                      writes docs/results-classification.md and its figures

DIR holds cifar10/, tiny_imagenet32/ and intent_text/ (see grkd.data.known_sets). A run that was stopped goes on.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks._measure import on_one_gpu
from grkd import recipe
from grkd.errors import UserError
from grkd.files import read_json, write_text
from grkd.recipe import ClassifierRecipe

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/classification")
KEPT = ROOT / "benchmarks" / "results" / "classification"
FOLDERS = {"banking77": "intent_text", "clinc150": "intent_text"}
HEAVY = ("tensors", "score", "copies", "checkpoints", "best")  # folders that are rebuilt in seconds


def run(options: argparse.Namespace) -> int:
    """Every recipe in a process of its own, all at once, spread over the GPUs. Their words go to <output>.log."""
    started = []
    for number, path in enumerate(options.recipes):
        command = [sys.executable, "-m", "benchmarks.classification", "one", str(path), *_passed_on(options)]
        log = RUNS / f"{path.stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=on_one_gpu(number))
            started.append((path, log, process))
        time.sleep(options.stagger)
    status = 0
    for path, log, process in started:
        found = process.wait()
        status = max(status, found)
        last = log.read_text(encoding="utf-8").splitlines()[-1:]
        print(f"{path.stem}: exit status {found}; {' '.join(last)}")
    return status


def one(options: argparse.Namespace) -> int:
    """One recipe, in this process. Returns 1 where a run failed or is still to be done."""
    from grkd.pipeline.compare import compare

    words, since = list(options.words), time.perf_counter()
    if options.data is not None:
        dataset = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))["data"]["dataset"]
        words.append(f"data.folder={options.data.resolve() / FOLDERS.get(dataset, dataset)}")
        if options.encoder is not None and dataset in FOLDERS:
            words.append(f"teacher.model={options.encoder.resolve()}")
    read = recipe.read(options.recipe, words)
    if not isinstance(read, ClassifierRecipe):
        raise UserError(f"{options.recipe}: not a classifier's recipe")
    status = compare(read, processes=options.processes, minutes=options.minutes, until=options.until)
    print(f"{read.output}: {time.perf_counter() - since:.0f} s")
    return status


def bundle(options: argparse.Namespace) -> int:
    """A .tgz of runs/classification without what is large and quickly rebuilt; unpack it in the project's root."""
    with tarfile.open(options.file, "w:gz") as archive:
        for path in sorted(RUNS.rglob("*")):
            parts = path.relative_to(RUNS).parts
            large = path.is_file() and path.stat().st_size > 8 << 20
            if path.is_file() and not large and not set(parts) & set(HEAVY):
                archive.add(path, recursive=False)
    print(f"{options.file}: {options.file.stat().st_size / 2**20:.1f} MiB")
    return 0


def keep(_: argparse.Namespace) -> int:
    """Copy what the tables need, and nothing that names a place on this machine."""
    for folder in sorted(path.parent for path in RUNS.glob("*/results.json")):
        recipe_kept = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        recipe_kept.get("lockstep", {}).pop("teachers", None)
        results, environment_kept = read_json(folder / "results.json"), read_json(folder / "environment.json")
        search = folder / "search.json"
        record = {
            "title": results["title"],
            "environment": {k: v for k, v in environment_kept.items() if k not in ("platform", "command")},
            "recipe": {k: recipe_kept[k] for k in ("training", "lockstep", "search", "seeds") if k in recipe_kept},
            "status": results["status"],
            "settings": _chosen(folder, recipe_kept),
            "search": read_json(search) if search.exists() else [],
            "rows": _rows(folder.name, results["rows"], recipe_kept),
        }
        write_text(KEPT / f"{folder.name}.json", _dumped(record))
        print(f"{KEPT / folder.name}.json: {len(record['rows'])} values")
    return 0


def _chosen(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """label -> the settings of its final runs."""
    found = {}
    for method in settings["methods"]:
        for path in sorted(folder.glob(f"train/{method['label']}-seed*/manifest.json"))[:1]:
            inputs = read_json(path)["inputs"]
            found[method["label"]] = {"learning_rate": inputs["learning_rate"], **inputs["method"]["options"]}
    return found


def _rows(name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
    labels = {m["label"]: m["name"] for m in settings["methods"]}
    student = settings["student"]
    shown = ", ".join([student["model"], *(f"{k} {v}" for k, v in student.get("options", {}).items())])
    return [
        {
            "dataset": name,
            "method": labels.get(row["method"], row["method"]),
            "label": row["method"],
            "student": shown,
            **{key: row.get(key) for key in ("seed", "metric", "value", "low", "high", "steps", "seconds")},
        }
        for row in rows
    ]


def _dumped(record: dict[str, Any]) -> str:
    """JSON with a line for every entry of a list: short, and a changed value is a changed line."""
    parts = []
    for name, value in record.items():
        if isinstance(value, list):
            lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            parts.append(f'  "{name}": [\n{lines}\n  ]' if value else f'  "{name}": []')
        else:
            parts.append(f'  "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def table(_: argparse.Namespace) -> int:
    from benchmarks.classification_table import write

    write(KEPT, ROOT / "docs")
    return 0


def _passed_on(options: argparse.Namespace) -> list[str]:
    words = ["--processes", str(options.processes), "--until", options.until]
    for name in ("data", "encoder", "minutes"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    return [*words, *(["--words", *options.words] if options.words else [])]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classification", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "one"):
        command = commands.add_parser(name)
        if name == "run":
            command.add_argument("recipes", nargs="+", type=Path)
            command.add_argument("--stagger", type=float, default=0.0, help="seconds between two beginnings")
        else:
            command.add_argument("recipe", type=Path)
        command.add_argument("--data", type=Path, help="folder of the data sets (default: the recipes' own)")
        command.add_argument("--encoder", type=Path, help="folder of the sentence encoder (default: its hub name)")
        command.add_argument("--minutes", type=float, help="begin nothing new after so many minutes")
        command.add_argument("--until", choices=("teach", "search", "finals"), default="finals")
        command.add_argument("--processes", type=int, default=1, help="of each recipe")
        command.add_argument("--words", nargs="*", default=[], help="key=value words for every recipe")
    commands.add_parser("bundle").add_argument("file", type=Path)
    commands.add_parser("keep")
    commands.add_parser("table")
    options = parser.parse_args(argv)
    return {"run": run, "one": one, "bundle": bundle, "keep": keep, "table": table}[options.command](options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
