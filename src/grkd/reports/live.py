"""A run that is going on: what its stages have left so far, though results.json is written at the end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from grkd.files import NotJSON, parse_json
from grkd.reports.results import BEFORE, TEACHER, Row, Run, read_run, split_name

_PARTIAL = ".partial"
_MANIFEST = "manifest.json"
_PARTS = ("*", "train/*", "evaluate/*", "search/*")  # where stages lie


def live_run(folder: Path) -> Run:
    """The run so far: metrics of every student that is evaluated, and in its title what is under way.

    Metrics of a student that is being retrained, or was retrained after they were measured, are left out: they belong
    to an earlier recipe.

    Raises UserError as `read_run`.
    """
    run, running = read_run(folder), under_way(folder)
    if not running and (folder / "results.json").is_file():
        return run
    doing = ", ".join(running) or "between two stages"
    by_stages = any((folder / "evaluate").glob("*/metrics.json"))  # a GRKDTrainer's run has results.json alone
    rows = tuple(_rows(folder)) if by_stages else run.rows
    return replace(run, title=f"{run.title} (running: {doing})", rows=rows)


def under_way(folder: Path) -> list[str]:
    """Names of the stages that are being made, a training with its last logged step."""
    found = []
    for pattern in _PARTS:
        for path in sorted(folder.glob(f"{pattern}{_PARTIAL}")):
            name = str(path.relative_to(folder)).removesuffix(_PARTIAL)
            step = _last_step(path / "metrics.jsonl")
            found.append(name if step is None else f"{name}, step {step}")
    return found


def stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    """The files that the page is made of, with their times of change: another stamp, another page."""
    patterns = ("*.json", "*.yaml", "*/*.json", "*/*/*.json", "*/*/metrics.jsonl", "*/*/curve.jsonl")
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    found = []
    for path in sorted(files):
        try:
            found.append((str(path.relative_to(folder)), path.stat().st_mtime_ns))
        except OSError:  # renamed meanwhile
            continue
    return tuple(found)


def _last_step(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines[-2:]):  # the last one may be half written
        try:
            return int(parse_json(line, strict=False)["step"])
        except (NotJSON, KeyError, TypeError, ValueError):
            continue
    return None


def _rows(folder: Path) -> Iterator[Row]:
    for path in sorted((folder / "evaluate").glob("*/metrics.json")):
        name = path.parent.name
        method, seed = (name, None) if name in (BEFORE, TEACHER) else split_name(name)
        if (method == name and name not in (BEFORE, TEACHER)) or _is_outdated(folder, name):
            continue
        spent = _read(folder / "train" / name / "training.json")
        times: dict[str, Any] = {key: spent.get(key) for key in ("steps", "seconds", "rows_seen")}
        for metric, interval in _read(path).items():
            bounds = {key: interval.get(key) for key in ("value", "low", "high")}
            yield Row(method=method, metric=metric, seed=seed, **bounds, **times)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it is not there, or not whole."""
    try:
        found = parse_json(path.read_bytes(), strict=False)
    except (OSError, NotJSON):
        return {}
    return found if isinstance(found, dict) else {}


def _is_outdated(folder: Path, name: str) -> bool:
    """Whether what was measured of a student is of another one than now: other weights, or another teacher's scores."""
    measured, trained = f"evaluate/{name}", f"train/{name}"
    if any((folder / f"{stage}{_PARTIAL}").exists() for stage in (measured, trained)):
        return True
    inputs = _read(folder / measured / _MANIFEST).get("inputs", {})
    stages = {"model": trained, "trained": trained, "score": "score", "prepare": "prepare"}
    keys = {given: _read(folder / stage / _MANIFEST).get("key") for given, stage in stages.items() if inputs.get(given)}
    return any(key is not None and key != inputs[given] for given, key in keys.items())
