"""The report stage: results.json from the stages' files, the page, the table."""

from pathlib import Path
from typing import Any

from grkd.console import Output, console
from grkd.environment import command_line, environment
from grkd.files import read_json, write_json, write_text
from grkd.recipe import Recipe, dump
from grkd.reports import print_tables, read_run, write_page
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE


def describe(recipe: Recipe, run: RunFolder) -> None:
    """recipe.yaml and environment.json: written once the recipe has proved sound."""
    if run.ranks.is_main_process:
        write_text(run.path / "recipe.yaml", dump(recipe))
        write_json(run.path / "environment.json", environment(command_line()))


def collect(recipe: Recipe, folder: Path, status: dict[str, str]) -> None:
    """Write results.json (and evaluate/samples.json) from what the evaluate stage left.

    Of runs whose status is "done" alone: what another one left behind has older settings.
    """
    rows: list[dict[str, Any]] = []
    rows += _rows(folder, "before", "before", None)
    rows += _rows(folder, "teacher", "teacher", None)
    for method in recipe.methods:
        for seed in recipe.seeds:
            name = f"{method.label}-seed{seed}"
            rows += _rows(folder, name, method.label, seed) if status.get(name) == DONE else []
    counts: dict[str, int] = {}
    for stage in ("prepare", "respond", "score"):
        path = folder / stage / "counts.json"
        counts |= read_json(path) if path.exists() else {}
    write_json(
        folder / "results.json",
        {
            "title": recipe.title or folder.name,
            "task": recipe.task,
            "status": status,
            "counts": counts,
            "costs": _first_of_each(recipe, folder, status, "cost.json"),
            "rows": rows,
        },
    )
    _samples(recipe, folder, status)


def publish(recipe: Recipe, folder: RunFolder, status: dict[str, str]) -> int:
    """results.json, the page and the printed table. Returns 0, or 1 if a method failed."""
    if folder.ranks.is_main_process:
        collect(recipe, folder.path, status)
        run, page = read_run(folder.path), folder.path / "report.html"
        write_page([run], page)
        print_tables([run], Output())
        console.print(f"report: {page}", soft_wrap=True)
    return 0 if all(outcome == DONE for outcome in status.values()) else 1


def _rows(folder: Path, name: str, method: str, seed: int | None) -> list[dict[str, Any]]:
    metrics, training = folder / "evaluate" / name / "metrics.json", folder / "train" / name / "training.json"
    if not metrics.exists():
        return []
    spent = read_json(training) if training.exists() else {"steps": None, "seconds": None}
    return [
        {"method": method, "seed": seed, "metric": metric, **interval, **spent}
        for metric, interval in read_json(metrics).items()
    ]


def _first_of_each(recipe: Recipe, folder: Path, status: dict[str, str], file: str) -> dict[str, Any]:
    """What evaluate/*/`file` holds for the teacher, the student before, and the first seed of each finished method."""
    names = {"teacher": "teacher", "before": "before"}
    first = {method.label: f"{method.label}-seed{recipe.seeds[0]}" for method in recipe.methods}
    names |= {label: name for label, name in first.items() if status.get(name) == DONE}
    paths = {shown: folder / "evaluate" / name / file for shown, name in names.items()}
    return {shown: found for shown, path in paths.items() if path.exists() and (found := read_json(path))}


def _samples(recipe: Recipe, folder: Path, status: dict[str, str]) -> None:
    answers = _first_of_each(recipe, folder, status, "answers.json")
    if not answers:
        (folder / "evaluate" / "samples.json").unlink(missing_ok=True)  # of an earlier recipe
        return
    samples = [
        {
            "prompt": one["prompt"],
            "messages": one.get("messages", []),
            "answers": {shown: given[number]["answer"] for shown, given in answers.items()},
            "cut": [shown for shown, given in answers.items() if given[number].get("cut")],
        }
        for number, one in enumerate(next(iter(answers.values())))
    ]
    write_json(folder / "evaluate" / "samples.json", samples)
