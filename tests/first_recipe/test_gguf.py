"""`grkd init` with a teacher in a GGUF file, or in a folder that holds nothing else."""

from pathlib import Path

import pytest

from grkd import cli, recipe
from tests.first_recipe.test_init import chats
from tests.models.test_gguf_export import student

pytest.importorskip("gguf", reason="needs pip install 'grkd[gguf]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # gguf's and transformers' own


def test_a_folder_with_only_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its layers are counted, and its context is read, as those of a model's folder."""
    small, folder = student(tmp_path / "small", tied=False), tmp_path / "large"
    folder.mkdir()
    assert cli.main(["export", str(small), "--gguf", str(folder / "large.gguf"), "--dtype", "float32"]) == 0
    data = str(chats(tmp_path / "c.jsonl"))
    for given in (folder, folder / "large.gguf"):
        path = tmp_path / f"{given.name}.yaml"
        assert cli.main(["init", data, "--teacher", str(given), "--output", str(path)]) == 0
        read = recipe.read(path)
        assert read.teacher.model == str(folder / "large.gguf")
        assert read.student.layers == [1]
        assert read.responses.max_new_tokens == 16  # an answer's, and within half of a context of 64
    (folder / "other.gguf").write_bytes(b"GGUF")
    capsys.readouterr()
    assert cli.main(["init", data, "--teacher", str(folder), "--output", str(tmp_path / "none.yaml")]) == 2
    said = capsys.readouterr().err
    assert "several GGUF files in it (large.gguf, other.gguf); give one of them, such as " in said
    assert not (tmp_path / "none.yaml").exists()
