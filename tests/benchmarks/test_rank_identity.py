"""What a measure of the rank task is known by: the models' content, their precision, and where they ran."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grkd.answers import identity as _identity
from grkd.benchmarks import _rank_models
from grkd.benchmarks import _rank_task as rank_task
from grkd.benchmarks._rank_models import LiveTeacher, Student


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{n}", "completion": f"w{n} w2"}) + "\n" for n in range(3)))
    return path


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    path = tmp_path / "groups.jsonl"
    rows = [{"prompt": f"w{n}", "responses": [f"w{n} w2", "w3"]} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def loaded_as(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    load = _rank_models.load_language_model
    monkeypatch.setattr(_rank_models, "load_language_model", lambda name, **_: load(name, dtype=dtype))


def test_measures_of_another_precision_of_the_student_are_made_again(
    tiny_teacher: Path, prompts: Path, groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "rank.jsonl"
    options: dict[str, Any] = {"teacher": str(tiny_teacher), "top_k": 5, "store": store}
    for source, each in ((prompts, 3), (groups, 6)):
        store.unlink(missing_ok=True)
        rank_task.run(str(tiny_teacher), source, **options)
        first = lines(store)
        rank_task.run(str(tiny_teacher), source, **options)
        assert lines(store) == first
        with monkeypatch.context() as changed:
            loaded_as(torch.bfloat16, changed)
            rank_task.run(str(tiny_teacher), source, **options)
        assert lines(store) >= first + each


def test_measures_of_another_precision_of_the_teacher_are_made_again(
    tiny_teacher: Path, prompts: Path, groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill on a GPU, where the teacher runs in bfloat16, and a second start on a CPU."""
    store, student = tmp_path / "rank.jsonl", tmp_path / "student"
    shutil.copytree(tiny_teacher, student)
    (student / "note.json").write_text("{}")  # another model, whose measures are never taken for the teacher's
    options: dict[str, Any] = {"teacher": str(tiny_teacher), "top_k": 5, "store": store}
    for source, each in ((prompts, 3), (groups, 6)):
        store.unlink(missing_ok=True)
        with monkeypatch.context() as changed:
            changed.setattr(LiveTeacher, "precision", ("bfloat16", "cuda"))
            rank_task.run(str(student), source, **options)
        first = lines(store)
        rank_task.run(str(student), source, **options)
        assert lines(store) == first + each


def test_a_teachers_precision_is_that_of_its_device(tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(str(tiny_teacher), device="cpu", batch_size=2)
    assert student.precision == ("float32", "cpu")
    teacher = LiveTeacher(str(tiny_teacher), student)
    assert teacher.precision == ("float32", "cpu")
    assert teacher.model.dtype == torch.float32
    monkeypatch.setattr(student, "model", SimpleNamespace(device=torch.device("cuda", 1)))
    assert teacher.precision == ("bfloat16", "cuda")


def test_the_teachers_content_is_in_the_settings(tiny_teacher: Path, prompts: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_teacher, moved)
    found = [
        rank_task.run(str(tiny_teacher), prompts, teacher=str(name), top_k=5)["settings"]
        for name in (tiny_teacher, moved)
    ]
    assert [settings["teacher"] for settings in found] == [str(tiny_teacher), str(moved)]
    assert {settings["teacher_identity"] for settings in found} == {_identity.model_digest(str(tiny_teacher))}


def test_a_manifest_tells_a_models_digest_as_it_was(tmp_path: Path) -> None:
    """In the form in which grkd's stages write it: large files by size and time of change."""
    from grkd.run import folder as _folder

    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(b"one")
    config.write_text("{}")
    (tmp_path / "README.md").write_text("not a part of the model")
    before = _identity.model_digest(str(tmp_path))
    small = _folder._content(str(tmp_path))
    stat = weights.stat()
    large = small | {weights.name: [stat.st_size, stat.st_mtime_ns]}
    assert [_identity.digest_in_manifest(str(tmp_path), content) for content in (small, large)] == [before] * 2
    weights.write_bytes(b"another")  # trained anew
    then = [_identity.digest_in_manifest(str(tmp_path), content) for content in (small, large)]
    assert then[0] == before
    assert len({*then, _identity.model_digest(str(tmp_path))}) == 3
    assert _identity.digest_in_manifest("a/hub-name", "a/hub-name") == _identity.model_digest("a/hub-name")
    assert _identity.digest_in_manifest(str(config), _folder._content(str(config))) == _identity.model_digest(
        str(config)
    )


def test_files_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()
    whole = _identity.file_digest

    def counted(path: Path) -> str:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(_identity, "file_digest", counted)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    (tmp_path / "config.json").write_text("{}")
    first = _identity.model_digest(str(tmp_path))
    assert _identity.model_digest(str(tmp_path)) == first
    assert sorted(read) == ["config.json", "model.safetensors"]
    weights.write_bytes(b"two")  # of the same length
    os.utime(weights, ns=(1, 1))
    assert _identity.model_digest(str(tmp_path)) != first
    assert _identity.model_digest(str(weights)) == whole(weights)
    assert read.count("model.safetensors") == 2
