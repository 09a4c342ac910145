"""The teacher of a run and of a comparison: the same one, shared by recipes, blind to what a search validates on."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from grkd.classify.score import teacher_outputs
from grkd.classify.teach import check_teacher
from grkd.pipeline.run import run
from tests.classify._toys import SMALL, TEXTS, compare, context, read

MEMORISES = "teacher.training={epochs: 40, batch_size: 8, learning_rate: 1e-2}"


def noise(tmp_path: Path) -> list[str]:
    """Texts without a word in common, with labels by chance: a teacher can only learn them by heart."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = [f"{''.join(draw.choices(letters, k=12))},{draw.choice(['left', 'right'])}" for _ in range(120)]
    path = tmp_path / "noise.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return [f"data.train={path}", f"data.heldout={path}"]


@pytest.mark.parametrize("engine", ["lockstep", "trainer"])
def test_a_teacher_that_learns_by_heart_knows_nothing_of_the_validation_part(tmp_path: Path, engine: str) -> None:
    """Else the search rewards imitation of what the teacher knows by heart: 100 % there, chance on other examples."""
    words = [*noise(tmp_path), MEMORISES]
    words += ["search={trials: 1, validation_fraction: 0.3}"]
    words += ["teacher.training.gradient_accumulation=2"] if engine == "trainer" else []
    compare(tmp_path, *words, text=TEXTS, until="teach")
    opened = context(tmp_path, *words, text=TEXTS)
    right = teacher_outputs(opened)["train"].argmax(-1) == opened.labels["labels"]
    fit, validation = opened.search_rows
    assert right[fit].double().mean() > 0.95
    assert right[validation].double().mean() < 0.75


def test_without_a_search_the_teacher_sees_everything(tmp_path: Path) -> None:
    words = [*noise(tmp_path), MEMORISES]
    compare(tmp_path, *words, text=TEXTS, until="teach")
    opened = context(tmp_path, *words, text=TEXTS)
    right = teacher_outputs(opened)["train"].argmax(-1) == opened.labels["labels"]
    assert opened.teacher_rows is None
    assert right.double().mean() > 0.95


def test_another_validation_part_is_another_teacher(tmp_path: Path) -> None:
    first = context(tmp_path).teacher_inputs
    assert context(tmp_path, "search.validation_fraction=0.2").teacher_inputs != first
    assert context(tmp_path, "search=null").teacher_inputs != first
    assert context(tmp_path, "search.trials=2", "seeds=[0, 5]").teacher_inputs == first


def test_a_loaded_teacher_is_used_as_it_is_and_the_search_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(tmp_path, *SMALL, until="teach")
    weights = tmp_path / "run" / "teach" / "model" / "model.safetensors"
    words = [f"output={tmp_path / 'other'}", f"teacher.weights={weights}", "teacher.training=null"]
    compare(tmp_path, *words, until="teach")
    assert "it is loaded as it is" in " ".join(capsys.readouterr().err.split())
    opened = context(tmp_path, *words)
    assert teacher_outputs(opened)["heldout"].equal(teacher_outputs(context(tmp_path, *SMALL))["heldout"])


def test_a_teacher_is_shared_by_recipes_of_one_folder(tmp_path: Path) -> None:
    words = [f"lockstep.teachers={tmp_path / 'teachers'}", *SMALL]
    compare(tmp_path, *words, until="teach")
    weights = list((tmp_path / "teachers").glob("*/teach/model/model.safetensors"))
    assert len(weights) == 1
    made = weights[0].stat().st_mtime_ns
    compare(tmp_path, *words, f"output={tmp_path / 'other'}", "student.options.hidden=[9]", until="teach")
    assert weights[0].stat().st_mtime_ns == made
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    compare(tmp_path, *words, "teacher.options.hidden=[31]", until="teach")
    assert len(list((tmp_path / "teachers").iterdir())) == 2


def test_a_shared_teacher_knows_nothing_that_another_search_validates_on(tmp_path: Path) -> None:
    words = ["data={dataset: cifar10, folder: x, teacher_labels: clean}", "lockstep.teachers=t"]
    keys = {}
    for labels in ("worst", "random1"):
        own = [*words, f"data.labels={labels}"]
        searched, alone = context(tmp_path, *own), context(tmp_path, *own, "search=null")
        keys[labels] = searched.teacher_run.path, alone.teacher_run.path
    assert keys["worst"][0] != keys["random1"][0]  # the parts are drawn by the students' labels
    assert keys["worst"][1] == keys["random1"][1]


def test_run_and_compare_have_one_teacher(tmp_path: Path) -> None:
    compare(tmp_path, until="teach")
    weights = tmp_path / "run" / "teach" / "model" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert run(read(tmp_path, "seeds=[0]", "methods=[kd]", "search.options={}")) == 0
    assert weights.stat().st_mtime_ns == made


class Factory(nn.Module):
    """Somebody's own network, with random weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


def test_a_factory_without_training_and_weights_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"teacher.model={__name__}:Factory"
    check_teacher(read(tmp_path, name, "teacher.options={}"))
    assert "random teacher" not in capsys.readouterr().err
    check_teacher(read(tmp_path, name, "teacher.options={}", "teacher.training=null"))
    assert "unless the factory loads weights itself, a random teacher is distilled" in " ".join(
        capsys.readouterr().err.split()
    )
