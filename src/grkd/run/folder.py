"""A run's folder: stages as complete folders with a manifest, made once, resumed after a kill."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout
from rich.markup import escape

from grkd import ranks
from grkd.console import console
from grkd.endpoint.launch import LEDGERS
from grkd.errors import UserError
from grkd.files import digest, file_digest, write_json
from grkd.imports import imported, is_import_path, source_of
from grkd.inventory import damages
from grkd.recipe import Section, to_plain
from grkd.run.manifest import BEGUN, changed, read_manifest, write_manifest

if TYPE_CHECKING:
    from accelerate import PartialState

Made = TypeVar("Made")

# What a run writes beside its stages.
_FILES = (".lock", "recipe.yaml", "environment.json", "results.json", "search.json", "report.html")

_SMALL = 4 << 20  # bytes; files up to here are hashed whenever their stage is used again
# Keys of recipes whose values are paths, if something is there.
_PATHS = (
    "model",
    "tokenizer",
    "train",
    "heldout",
    "dataset",
    "image_folder",
    "image_root",
    "folder",
    "weights",
    "questions",
    "dense_model",
)
_HASH_WHOLE = 64 << 20  # larger files enter a digest by size and time of change, not by content


class RunFolder:
    """Where one run writes. Every stage is a folder; `<stage>.partial` while it is being made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def ranks(self) -> "PartialState":
        """The processes of this launch; accelerate is imported when they are first asked for, which takes seconds."""
        found = ranks.ranks()
        if found.num_processes > 1:  # one of several processes speaks
            console.quiet = console.quiet or not found.is_main_process
        return found

    @property
    def budgets(self) -> Path | None:
        """Where the budgets of the command that holds this folder are counted; None if none does."""
        return self.path if (self.path / ".lock").exists() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out of the same folder. Raises UserError if one is at work in it."""
        self._writable()
        for name in _FILES:
            if (self.path / name).is_dir():
                raise UserError(
                    f"{self.path / name}: a folder is in the place of a file of the run; delete or rename it"
                )
        if not self.ranks.is_main_process:
            yield
            return
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.path}: another grkd process is using this folder") from None
        try:
            self._forget_budgets()  # of a command that was killed
            yield
        finally:
            self._forget_budgets()
            # Unlink the lock file before it is released: a waiting process then notices that its file was unlinked and
            # retries on a new one. Afterwards it could lock the stale file while a third process locks the new one.
            with suppress(OSError):
                (self.path / ".lock").unlink()
            lock.release()

    def _forget_budgets(self) -> None:
        for path in self.path.glob(LEDGERS):
            path.unlink(missing_ok=True)

    def _writable(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            try:
                probe.write_text("grkd")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"output: cannot write to {self.path}: {error.strerror or error}") from None

    def stage(
        self,
        name: str,
        inputs: dict[str, Any],
        make: Callable[[Path], None],
        *,
        quick: bool = False,
        main_only: bool = False,
    ) -> Path:
        """The finished folder of a stage, made now unless it is there already with the same inputs.

        `make` writes into the folder that it is given; after a kill it is called again on what it had written, if the
        inputs are still the same. A complete stage with other inputs is kept as `<stage>.old`. main_only: one process
        makes it, the others wait.
        On a UserError the partial folder is deleted if the stage wrote nothing yet or is `quick`. Otherwise finished
        shards and checkpoints are kept, so that the command can be repeated after the cause (such as an unreachable
        hub) is fixed.
        """
        key, final = digest(inputs), self.path / name
        if self.from_main(lambda: self._whole(final, key)):
            if self.ranks.is_main_process:
                console.print(f"[dim]{name}: already done[/dim]")
            return final
        work = final.with_name(final.name + ".partial")
        if self.ranks.is_main_process:
            self._tell_what_changed(final, inputs)
            self._prepare(work, key)
        ranks.wait(name)
        try:
            made = self.from_main(lambda: self._whole(work, key))  # killed before its last step, the new name
            if not made and (self.ranks.is_main_process or not main_only):
                make(work)
        except UserError:
            if quick or all(path.name == BEGUN for path in work.iterdir()):
                shutil.rmtree(work, ignore_errors=True)
            raise
        ranks.wait(name)
        if self.ranks.is_main_process:
            self._finish(work, final, key, inputs)
        ranks.wait(name)
        return final

    def key(self, name: str) -> str:
        """Digest of what a complete stage was made from; the input of the stages after it."""
        found = read_manifest(self.path / name)
        if found is None:
            raise UserError(f"{self.path / name}: the stage is not there; repeat the command that makes it")
        return str(found["key"])

    def complete(self, name: str, inputs: dict[str, Any]) -> bool:
        """Whether a stage is on disk, made from these inputs."""
        return self._whole(self.path / name, digest(inputs))

    def from_main(self, made: Callable[[], Made]) -> Made:
        """What `made` gives on the main process, on every rank."""
        return ranks.from_main(made)

    def _whole(self, folder: Path, key: str) -> bool:
        found = read_manifest(folder)
        if found is None or found["key"] != key:
            return False
        damaged = damages(folder, found, hash_up_to=_SMALL)
        if damaged and self.ranks.is_main_process:
            names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
            stage = escape(str(folder.relative_to(self.path)))
            console.print(f"[yellow]{stage}: damaged: {escape(names)}; it will be rebuilt[/yellow]", soft_wrap=True)
        return not damaged

    def _tell_what_changed(self, final: Path, inputs: dict[str, Any]) -> None:
        found = read_manifest(final)
        names = [] if found is None else changed(found.get("inputs", {}), inputs)
        if names:
            text = f"{final.relative_to(self.path)}: rebuilt, since {', '.join(names[:4])} changed"
            more = f" (and {len(names) - 4} more)" if len(names) > 4 else ""
            console.print(
                f"[dim]{escape(text)}{more}; the old one is kept as {escape(final.name)}.old[/dim]", soft_wrap=True
            )

    def _prepare(self, work: Path, key: str) -> None:
        begun = read_manifest(work, BEGUN)
        if begun is not None and begun["key"] == key:
            if any(path.name != BEGUN for path in work.iterdir()):
                console.print(f"[dim]{work.stem}: resuming[/dim]")
            return
        if begun is not None and any(path.name != BEGUN for path in work.iterdir()):
            console.print(
                f"[yellow]{escape(work.stem)}: the unfinished stage had other settings and was deleted[/yellow]"
            )
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / BEGUN, {"key": key})

    def _finish(self, work: Path, final: Path, key: str, inputs: dict[str, Any]) -> None:
        write_manifest(work, key=key, inputs=inputs)
        if final.exists():
            old = final.with_name(final.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(work, final)
        (final / BEGUN).unlink()


def identity(section: Section) -> dict[str, Any]:
    """A recipe's section with every path replaced by the digest of what is there, so that files may move.

    A hub name, and a path that leads nowhere, stand as they are. A network of one's own comes with its code.
    """
    plain = to_plain(section)
    plain.pop("placement", None)  # where a teacher's weights lie, not what they are
    for key in _PATHS:
        # A data set's name is a path only if the recipe's reader made it absolute: "digits" is never a folder.
        if isinstance(plain.get(key), str) and (key != "dataset" or Path(plain[key]).is_absolute()):
            plain[key] = _content(plain[key])
    if isinstance(plain.get("models"), list):
        plain["models"] = [_content(name) for name in plain["models"]]
    return plain


def _content(name: str) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        return path_digest(path)
    if path.is_dir():
        return {str(file.relative_to(path)): path_digest(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return own_code(name) or name


def own_code(*given: Any) -> dict[str, Any]:
    """Import path -> digest of the file that it is written in, of every import path among names and nested options.

    Empty for what grkd has itself. Part of what a stage depends on, so that changed code is not taken for the old.
    """
    found: dict[str, Any] = {}
    for each in given:
        if isinstance(each, dict | list | tuple):
            found |= own_code(*(each.values() if isinstance(each, dict) else each))
        elif isinstance(each, str) and is_import_path(each) and not each.startswith("grkd."):
            with suppress(UserError):  # a text with a colon, or what the recipe's check refuses
                file = source_of(imported(each))
                found |= {} if file is None else {each: path_digest(file)}
    return found


def path_digest(path: Path) -> Any:
    """Digest of a file's contents; of size and time of change where hashing it would take long."""
    stat = path.stat()
    return file_digest(path) if stat.st_size <= _HASH_WHOLE else [stat.st_size, stat.st_mtime_ns]
