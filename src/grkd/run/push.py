"""A finished student on the hub: its files, and a card with the run's measures and recipe."""

import re
from pathlib import Path

from grkd.errors import UserError
from grkd.hub import hub_errors
from grkd.reports import markdown_table, read_run

_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^/\s'\"]+/)+")  # of absolute paths, which are nobody's business
_RECIPE = "grkd_recipe.json"
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def push(student: Path, name: str, *, private: bool = True) -> str:
    """Upload a student's folder; returns its address. The card on disk stays as it is.

    Raises UserError for a folder without a model, a name that is none, and everything that the hub refuses.
    """
    if not (student / "config.json").is_file():
        raise UserError(
            f"{student}: no model in it (no config.json); give a student's folder, runs/NAME/train/X/student"
        )
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r}: the hub's names look like my-name/my-student")
    from huggingface_hub import HfApi

    card, api = finished_card(student), HfApi()
    with hub_errors("push", name, out_of_reach="what it has is kept"):
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=student,
            ignore_patterns=["README.md", _RECIPE],
            commit_message="Student distilled with grkd",
        )
        if (student / _RECIPE).is_file():
            recipe = _without_folders((student / _RECIPE).read_text(encoding="utf-8"))
            api.upload_file(
                path_or_fileobj=recipe.encode(), path_in_repo=_RECIPE, repo_id=name, commit_message="Recipe"
            )
        api.upload_file(
            path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=name, commit_message="Model card"
        )
    return str(made)


def finished_card(student: Path) -> str:
    """The student's card, with the table of the run that it lies in and its recipe if there is one."""
    path = student / "README.md"
    text = _without_folders(path.read_text(encoding="utf-8")) if path.is_file() else f"# {student.resolve().name}\n"
    run = next(iter(student.resolve().parents[2:3]), None)  # above train/NAME; a folder near the root has none
    if run is None or not (run / "results.json").is_file():
        return text
    found = read_run(run)
    name = student.resolve().parent.name
    recipe = f"## Recipe\n\n```yaml\n{_without_folders(found.recipe).rstrip()}\n```\n" if found.recipe else ""
    measures = f"## Measures\n\nThis student is `{name}`. On held-out data of the run:\n\n{markdown_table(found)}"
    return f"{text.rstrip()}\n\n{measures}\n{recipe}"


def _without_folders(text: str) -> str:
    return _FOLDERS.sub("", text)
