"""Checkpoints of a language run that a kill, a damaged file or a full disk has left."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from grkd import cli
from grkd.files import full_disk
from grkd.training.checkpoints import last_whole_checkpoint
from grkd.training.trainer import DistillationTrainer
from tests.run._damage import again, altered

LANGUAGE = """
task: language_model
output: {output}
device: cpu
teacher: {{model: {teacher}}}
student: {{layers: [0, 2]}}
data: {{train: {prompts}, heldout_fraction: 0.25}}
responses: {{source: teacher, max_new_tokens: 4}}
methods: [kd]
training: {{steps: 9, batch_size: 2, learning_rate: 5e-3, log_every: 10, save_every: 2}}
evaluation: {{top_k: 5, samples: 0}}
"""


@pytest.fixture(scope="session")
def finished_language(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_prompts: Path) -> Path:
    """The same of a tiny language model."""
    folder = tmp_path_factory.mktemp("language")
    path = folder / "recipe.yaml"
    path.write_text(LANGUAGE.format(output=folder / "run", teacher=tiny_teacher, prompts=tiny_prompts))
    assert cli.main(["run", str(path)]) == 0
    return folder


@pytest.fixture
def language_run(tmp_path: Path, finished_language: Path, tiny_teacher: Path, tiny_prompts: Path) -> Path:
    shutil.copytree(finished_language / "run", tmp_path / "run")
    recipe = LANGUAGE.format(output=tmp_path / "run", teacher=tiny_teacher, prompts=tiny_prompts)
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path / "run"


def stopped_at(run: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Path:
    """The checkpoints of a training that is killed in a step."""
    shutil.rmtree(run / "train")
    real, calls = DistillationTrainer.training_step, []

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(DistillationTrainer, "training_step", killed)
        assert again(run) == 130
    return run / "train" / "kd-seed0.partial" / "checkpoints"


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("how", ["cut", "gone", "altered"])
def test_a_damaged_checkpoint_is_passed_over(
    language_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, how: str
) -> None:
    checkpoints = stopped_at(language_run, monkeypatch, 8)
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-6"
    path = checkpoints / "checkpoint-6" / file
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "gone":
        path.unlink()
    else:
        altered(path)
    capsys.readouterr()
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-4"
    assert f"checkpoint-6 is damaged: {file}" in capsys.readouterr().err.replace("\n", " ")


def test_a_training_goes_on_from_the_older_checkpoint(language_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (language_run / "train" / "kd-seed0" / "student" / "model.safetensors").read_bytes()
    checkpoints = stopped_at(language_run, monkeypatch, 8)
    (checkpoints / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    steps: list[int] = []
    real = DistillationTrainer.training_step

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(self.state.global_step)
        return real(self, *arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "training_step", counted)
    assert again(language_run) == 0
    assert steps == [4, 5, 6, 7, 8]
    assert (language_run / "train" / "kd-seed0" / "student" / "model.safetensors").read_bytes() == expected


def test_no_checkpoint_is_left(language_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = stopped_at(language_run, monkeypatch, 8)
    for mark in checkpoints.glob("*/whole"):
        mark.write_text("[]")
    assert last_whole_checkpoint(checkpoints) is None
    assert again(language_run) == 0


def test_a_full_disk_while_a_checkpoint_is_written(
    language_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the same command resumes from the checkpoint before."""
    shutil.rmtree(language_run / "train")
    real, calls = torch.save, []

    def full(value: Any, path: Any, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if "checkpoint-6" in str(path):
            path = "/dev/full"
        real(value, path, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(torch, "save", full)
        capsys.readouterr()
        assert again(language_run) == 2
    assert calls
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "grkd: error: the disk is full; finished stages are kept" in said
    assert not list(language_run.glob(".probe-*"))
    checkpoints = language_run / "train" / "kd-seed0.partial" / "checkpoints"
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-4"
    assert again(language_run) == 0


def test_errors_of_a_full_disk_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.save(torch.zeros(1 << 16), "/dev/full")
    assert full_disk(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.save(torch.zeros(1), "/dev/full")
    assert full_disk(caught.value)
    assert full_disk(RuntimeError("basic_ios::clear: iostream error"))  # torch 2.11's, of the small file
    with pytest.raises(OSError, match="No space") as written, Path("/dev/full").open("w") as stream:
        stream.write("x" * 100_000)
    assert full_disk(written.value)
    assert not full_disk(RuntimeError("size mismatch"))


def test_a_full_disk_while_the_student_is_saved(
    language_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other methods would only fail as well, after their whole trainings."""
    shutil.rmtree(language_run / "train")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as context:
        context.setattr("grkd.language.train.save_student", full)
        for command in ("run", "compare"):
            capsys.readouterr()
            assert cli.main([command, str(language_run.with_name("recipe.yaml"))]) == 2
            assert "grkd: error: the disk is full; finished stages are kept" in capsys.readouterr().err
    assert again(language_run) == 0
