"""A run's folder looked through: every digest of every finished stage."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from grkd.console import Output, track
from grkd.errors import UserError
from grkd.files import read_json
from grkd.inventory import damages
from grkd.run.manifest import MANIFEST, read_manifest

_ASIDE = (".old", ".damaged", ".partial")
_SHOWN = 5  # damaged files that a line names
# What a run writes beside its stages; rewritten by every command.
_FILES = ("environment.json", "results.json", "search.json")


@dataclass(frozen=True)
class StageState:
    """What was found of a finished stage: its name, files, bytes, and what is wrong (empty: nothing)."""

    name: str
    files: int
    size_bytes: int
    damage: tuple[str, ...] = ()


def verify(run: Path, *, repair: bool = False) -> int:
    """Print the state of every finished stage. Returns 0, or 1 if something is damaged.

    repair: damaged stages are renamed to `<stage>.damaged`, and the run's own command makes them again.
    Raises UserError for a folder that holds no run, or one in which another process is at work.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the folder of a run")
    folders = _stages(run)
    if not folders and not any((run / name).is_file() for name in _FILES):
        raise UserError(f"{run}: no stage of a run is in it; give the output folder of a recipe")
    states = [_state(run, folder) for folder in track(folders, "verify", unit="stage")]
    files = [name for name in _FILES if not _readable(run / name)]
    out = Output(highlight=False)
    for state in states:
        if not state.damage:
            size = f"{state.size_bytes / 2**20:,.1f} MiB"
            out.print(f"{escape(state.name)}: undamaged, {state.files} files, {size}", soft_wrap=True)
    if not states:
        out.print("no stage of a run is here, so there is nothing to verify (GRKDTrainer has no stages)")
    damaged = [state for state in states if state.damage]
    for state in damaged:
        shown = ", ".join(state.damage[:_SHOWN]) + (", ..." if len(state.damage) > _SHOWN else "")
        out.print(f"[red]{escape(state.name)}: damaged: {escape(shown)}[/red]", soft_wrap=True)
    for name in files:
        out.print(f"[red]{name}: damaged; delete it, and repeat the run's command[/red]", soft_wrap=True)
    if damaged and repair:
        _move_aside(run, damaged)
        out.print("moved aside as *.damaged; repeat the run's command to rebuild them", soft_wrap=True)
    elif damaged:
        out.print("grkd verify --repair moves these stages aside; the run's command then rebuilds them")
    return 1 if damaged or files else 0


def _stages(run: Path) -> list[Path]:
    """Folders of finished stages, those of `<stage>.old` and the like left out."""
    # A stage lies at most two folders deep (train/<student>), in a folder of runs three: no walk over a whole disk.
    found = [path.parent for depth in ("*", "*/*", "*/*/*") for path in run.glob(f"{depth}/{MANIFEST}")]
    return sorted(path for path in found if not any(part.endswith(_ASIDE) for part in path.relative_to(run).parts))


def _state(run: Path, folder: Path) -> StageState:
    name = str(folder.relative_to(run))
    try:
        manifest = read_manifest(folder)
    except UserError:
        return StageState(name, 0, 0, (f"{MANIFEST} (unreadable)",))
    assert manifest is not None
    sizes = manifest.get("files_bytes", {})
    return StageState(name, len(sizes), sum(sizes.values()), tuple(damages(folder, manifest)))


def _readable(path: Path) -> bool:
    try:
        return not path.exists() or read_json(path) is not None
    except (UserError, OSError):
        return False


def _move_aside(run: Path, damaged: list[StageState]) -> None:
    from grkd.run.folder import RunFolder

    with RunFolder(run).locked():
        for state in damaged:
            aside = run / f"{state.name}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(run / state.name, aside)
