"""Every setting of a recipe has an effect: none is read and then ignored."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from grkd import cli
from grkd.errors import UserError
from grkd.recipe import Training
from grkd.run import training as _train
from grkd.run.folder import RunFolder

OTHER: dict[str, Any] = {
    "epochs": 2.5,
    "steps": 7,
    "batch_size": 3,
    "gradient_accumulation": 2,
    "learning_rate": 3e-4,
    "schedule": "linear",
    "warmup": 0.3,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "gradient_checkpointing": True,
    "log_every": 3,
    "save_every": 33,
    "report_to": ["tensorboard"],
    "extra": {"adam_beta2": 0.95},
}


def made(training: Training, where: str = "cpu") -> dict[str, Any]:
    built: TrainingArguments = _train.arguments(
        training, folder=Path("x"), seed=0, where=torch.device(where), bf16=False, run_name="x"
    )
    return {name: value for name, value in built.to_dict().items() if name != "logging_dir"}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Training)])
def test_every_training_setting_reaches_the_trainer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "report_to":
        pytest.importorskip("tensorboard", reason="needs a reporter to report to")
    if name in ("fused_head", "steps_per_generation", "tokens_per_batch", "compile"):
        pytest.skip("goes to our trainer: tests/cli/test_run.py runs a recipe with it")
    if name == "float32_masters":
        pytest.skip("goes to our trainer: tests/training/test_float32_masters.py")
    if name == "minutes":
        pytest.skip("ends our trainer: tests/training/test_time_limit.py")
    assert made(Training(**{name: OTHER[name]})) != made(Training())


def test_small_modules_train_on_one_thread() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with _train.fitting_threads(torch.nn.Linear(4, 4), cpu):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with _train.fitting_threads(torch.nn.Linear(1000, 1000), cpu):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["metric"]): row["value"] for row in rows}


DIGITS = """
task: classifier
output: {output}
device: cpu
teacher: {{model: mlp, options: {{hidden: [64]}}, training: {{epochs: 6, learning_rate: 1e-2, batch_size: 64}}}}
student: {{model: mlp, options: {{hidden: [8]}}}}
data: {{dataset: digits}}
methods: [kd]
training: {{epochs: 3, batch_size: 64, learning_rate: 1e-2}}
"""


def test_student_limit_cuts_the_student_and_not_the_teacher(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(DIGITS.format(output=tmp_path / "run"))
    assert cli.main(["run", str(path)]) == 0
    whole = results(tmp_path / "run")
    taught = (tmp_path / "run" / "teach" / "manifest.json").stat().st_mtime_ns
    assert cli.main(["run", str(path), "data.student_limit=40"]) == 0
    limited = results(tmp_path / "run")
    assert limited["teacher", "accuracy"] == whole["teacher", "accuracy"]
    assert (tmp_path / "run" / "teach" / "manifest.json").stat().st_mtime_ns == taught
    assert limited["kd", "accuracy"] < whole["kd", "accuracy"]
    assert json.loads((tmp_path / "run" / "train" / "kd-seed0" / "training.json").read_text())["steps"] == 3


def test_group_larger_than_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(DIGITS.format(output=tmp_path / "run"))
    assert cli.main(["run", str(path), "methods=[{name: grkd, pairs.group: top, pairs.group_size: 11}]"]) == 2
    assert "group_size 11 is larger than the 10 candidates" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_text_from_a_csv(tmp_path: Path) -> None:
    words = {"fruit": ["apple", "pear", "plum"], "tool": ["hammer", "saw", "drill"]}
    with (tmp_path / "train.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "label"])
        for number in range(60):
            for label, names in words.items():
                rows.writerow([f"the {names[number % 3]} number {number}", label])
    path = tmp_path / "text.yaml"
    path.write_text(
        DIGITS.format(output=tmp_path / "run")
        .replace("{dataset: digits}", "{train: train.csv, features: tfidf}")
        .replace("batch_size: 64", "batch_size: 8")
    )
    assert cli.main(["run", str(path)]) == 0
    assert results(tmp_path / "run")["kd", "accuracy"] > 0.9


def test_image_folder_with_a_cnn_and_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for label, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            noise = torch.randint(0, 40, (3,), generator=generator).tolist()
            shade = tuple(base + extra for base, extra in zip(colour, noise, strict=True))
            Image.new("RGB", (10, 12), shade).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def tiny(classes, input_shape):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(input_shape[0], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "images.yaml"
    text = DIGITS.format(output=tmp_path / "run").replace("{dataset: digits}", "{image_folder: images, image_size: 8}")
    text = text.replace("{model: mlp, options: {hidden: [64]},", "{model: cnn, options: {channels: [4]},")
    text = text.replace("student: {model: mlp, options: {hidden: [8]}}", "student: {model: 'mine:tiny'}")
    path.write_text(text.replace("epochs: 3,", "epochs: 20,").replace("batch_size: 64", "batch_size: 8"))
    assert cli.main(["run", str(path)]) == 0
    assert results(tmp_path / "run")["kd", "accuracy"] > 0.9


def test_a_stage_whose_file_was_lost_is_made_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    made_times = []

    def make(work: Path) -> None:
        made_times.append(1)
        (work / "out.txt").write_text("whole")

    for _ in range(2):
        run.stage("a", {"x": 1}, make)
    assert len(made_times) == 1
    (tmp_path / "run" / "a" / "out.txt").unlink()
    run.stage("a", {"x": 1}, make)
    assert len(made_times) == 2


def test_a_mistake_late_in_a_long_stage_loses_no_finished_shard(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")

    def late(work: Path) -> None:
        (work / "shard-00000.parquet").write_text("hours of work")
        raise UserError("the hub cannot be reached")

    with pytest.raises(UserError):
        run.stage("respond", {"x": 1}, late)
    assert (tmp_path / "run" / "respond.partial" / "shard-00000.parquet").exists()
    seen: list[bool] = []
    run.stage("respond", {"x": 1}, lambda work: seen.append((work / "shard-00000.parquet").exists()))
    assert seen == [True]


@pytest.mark.parametrize("quick", [False, True])
def test_a_mistake_before_any_work_leaves_nothing(tmp_path: Path, quick: bool) -> None:
    run = RunFolder(tmp_path / "run")

    def early(work: Path) -> None:
        if quick:
            (work / "half.json").write_text("half")
        raise UserError("a wrong option")

    with pytest.raises(UserError):
        run.stage("a", {"x": 1}, early, quick=quick)
    assert not (tmp_path / "run" / "a.partial").exists()


def test_a_moved_recipe_is_the_same_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    from grkd.recipe import read
    from grkd.run.folder import identity

    copy = tmp_path / "elsewhere"
    copy.mkdir()
    data = read(tiny_recipe).data
    moved = copy / "prompts.jsonl"
    moved.write_bytes(Path(str(data.train)).read_bytes())
    assert identity(dataclasses.replace(data, train=str(moved))) == identity(data)
    moved.write_text('{"prompt": "w1"}\n')
    assert identity(dataclasses.replace(data, train=str(moved))) != identity(data)
