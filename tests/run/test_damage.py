"""Damaged runs: finished stages, manifests, tables; and `grkd verify`."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from grkd.data.tables import read_metadata, read_table, write_table
from grkd.errors import UserError
from grkd.run.folder import RunFolder
from grkd.run.manifest import read_manifest
from tests.run._damage import again, altered

RECIPE = """
task: classifier
output: {output}
device: cpu
data: {{dataset: digits, limit: 200}}
teacher: {{model: mlp, options: {{hidden: [16]}}, training: {{epochs: 1, batch_size: 32, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [6]}}}}
methods: [kd]
training: {{steps: 9, batch_size: 8, learning_rate: 1e-2, log_every: 10, save_every: 2}}
"""

# Files with times, which another run does not repeat.
_TIMED = (".jsonl", "training.json", "README.md", "pace.json", "cost.json")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(output=folder / "run"))
    assert cli.main(["run", str(path)]) == 0
    return folder


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the run, with its recipe beside it."""
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(output=tmp_path / "run"))
    return tmp_path / "run"


@pytest.mark.parametrize("stage", ["prepare", "score", "train/kd-seed0", "evaluate/kd-seed0"])
def test_altered_files_are_noticed_and_made_again(run: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    folder = run / stage
    manifest = read_manifest(folder)
    assert manifest is not None
    for name in manifest["files_bytes"]:
        before = (folder / name).read_bytes()
        if not before:
            continue
        altered(folder / name)
        capsys.readouterr()
        assert again(run) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert f"{stage}: damaged: {name} (altered); it will be rebuilt" in said
        if "environment" not in name and not name.endswith(_TIMED):
            assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", '{"key": 1}', "{", '{"key": "a", "files_bytes": {"x": "y"}}'])
@pytest.mark.parametrize("name", ["manifest.json", "begun.json"])
def test_a_damaged_manifest_names_what_to_delete(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    folder = run / "score"
    if name == "begun.json":
        folder = folder.rename(run / "score.partial")
        (folder / "manifest.json").unlink()
    (folder / name).write_text(content)
    capsys.readouterr()
    assert again(run) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("grkd: error")]
    assert f"{folder / name}: damaged; delete the folder {folder}" in line
    shutil.rmtree(folder)
    assert again(run) == 0


@pytest.mark.parametrize("name", [".lock", "report.html", "results.json", "recipe.yaml"])
def test_a_folder_in_the_place_of_a_file(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    capsys.readouterr()
    assert again(run) == 2
    assert capsys.readouterr().err == (
        f"grkd: error: {run / name}: a folder is in the place of a file of the run; delete or rename it\n"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(content)
    for read in (lambda: read_table(path), lambda: read_metadata(path, b"counts")):
        with pytest.raises(UserError, match=r"shard.parquet: damaged .*delete it and repeat the command"):
            read()
    path.unlink()
    with pytest.raises(UserError, match=r"shard.parquet: not there; delete the folder"):
        read_table(path)
    write_table(path, [{"id": "a"}])
    assert read_table(path) == [{"id": "a"}]
    with pytest.raises(UserError, match=r"shard.parquet: damaged"):
        read_metadata(path, b"counts")


def test_no_probe_stays_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if ".probe" in self.name:
            self.touch()
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write to .*No space left"), RunFolder(tmp_path).locked():
        pass
    assert not list(tmp_path.glob(".probe-*"))


def test_verify_of_an_undamaged_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    for stage in ("prepare", "teach", "score", "train/kd-seed0", "evaluate/kd-seed0"):
        assert f"{stage}: undamaged" in said


def test_verify_finds_what_a_rerun_may_not_hash(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files are hashed by `grkd verify` alone; what it finds is repaired by the run's own command."""
    from grkd.run import folder

    monkeypatch.setattr(folder, "_SMALL", 0)
    expected = (run / "train" / "kd-seed0" / "model" / "model.safetensors").read_bytes()
    altered(run / "train" / "kd-seed0" / "model" / "model.safetensors")
    (run / "evaluate" / "teacher" / "manifest.json").write_text("{")
    (run / "results.json").write_text("half")
    assert cli.main(["verify", str(run)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "train/kd-seed0: damaged: model/model.safetensors (altered)" in said
    assert "evaluate/teacher: damaged: manifest.json (unreadable)" in said
    assert "results.json: damaged" in said
    assert cli.main(["verify", str(run), "--repair"]) == 1
    assert (run / "train" / "kd-seed0.damaged").is_dir()
    assert again(run) == 0
    assert (run / "train" / "kd-seed0" / "model" / "model.safetensors").read_bytes() == expected
    assert cli.main(["verify", str(run)]) == 0


def test_verify_wants_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path / "none")]) == 2
    assert cli.main(["verify", str(tmp_path)]) == 2
    deep = tmp_path / "home" / "me" / "runs" / "mine" / "score"
    deep.mkdir(parents=True)
    (deep / "manifest.json").write_text("{}")
    assert cli.main(["verify", str(tmp_path)]) == 2, "a disk is not searched for runs"
    assert capsys.readouterr().err.count("no stage of a run is in it") == 2


def test_a_folder_without_stages_is_not_called_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert cli.main(["verify", str(tmp_path)]) == 0
    assert "nothing to verify" in capsys.readouterr().out
