"""`grkd run` and `grkd compare` of one recipe: the same students, metrics and names, whatever the recipe says."""

from pathlib import Path

import pytest

from grkd.files import read_json
from grkd.pipeline.compare import compare as compare_command
from grkd.pipeline.run import run
from tests.classify._toys import SMALL, TEXTS, read

Groups = list[list[str]]


def metrics(tmp_path: Path, name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = read_json(tmp_path / "run" / "evaluate" / name / "metrics.json")
    return found


def test_either_command_keeps_what_the_other_made(tmp_path: Path, groups: Groups) -> None:
    one = read(tmp_path, *SMALL, "evaluation.groups={curly: ['3', '8', '9']}")
    assert run(one) == 0
    first = metrics(tmp_path, "kd-seed0")
    assert groups == [["ce-seed0", "kd-seed0"]]
    assert compare_command(one) == 0
    assert run(one) == 0
    assert len(groups) == 1
    assert metrics(tmp_path, "kd-seed0") == first
    assert {"group_accuracy/curly", "within_group_accuracy/curly", "accuracy", "ece"} < set(first)
    assert all(value["low"] <= value["value"] <= value["high"] for value in first.values())
    pairs = read_json(tmp_path / "run" / "evaluate" / "kd-seed0" / "confusion.json")["pairs"]
    right, examples = (sum(n for a, b, n in pairs if a == b), sum(n for *_, n in pairs))
    assert right / examples == pytest.approx(first["accuracy"]["value"])
    costs = read_json(tmp_path / "run" / "results.json")["costs"]
    assert costs["teacher"]["parameters"] > costs["kd"]["parameters"] > 0


@pytest.mark.parametrize(
    "words",
    [
        ["search={trials: 2, learning_rate: [1e-3, 1e-2]}"],
        ["lockstep={optimizer: sgd, students: 2}"],
    ],
)
def test_recipes_that_compare_are_run_as_they_are_written(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(read(tmp_path, *SMALL, *words)) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert ("search: ignored by grkd run" in said) == ("search" in words[0])
    inputs = read_json(tmp_path / "run" / "train" / "kd-seed0" / "manifest.json")["inputs"]
    assert inputs["learning_rate"] == 1e-2
    assert inputs["lockstep"]["optimizer"] == ("sgd" if "sgd" in words[0] else "adamw")


def test_copies_of_texts_are_run_too(tmp_path: Path) -> None:
    assert run(read(tmp_path, "data.copies=3", text=TEXTS)) == 0
    assert read_json(tmp_path / "run" / "train" / "kd-seed0" / "training.json")["steps"] == 2 * 4 * 32 // 8


def test_settings_of_the_trainer_are_followed_by_both_commands(tmp_path: Path, groups: Groups) -> None:
    """Then students are trained one at a time, with checkpoints, and searched in the same way."""
    words = ["methods=[kd]", "seeds=[0]", "training.gradient_accumulation=2", "training.epochs=1"]
    one = read(tmp_path, *words, "search={trials: 2, learning_rate: [1e-4, 1e-2]}", "data.limit=100")
    assert compare_command(one) == 0
    assert groups == []
    found = read_json(tmp_path / "run" / "search.json")
    assert [one["outcome"] for one in found] == ["done", "done"]
    best = max(found, key=lambda one: one["value"])["settings"]
    assert (
        read_json(tmp_path / "run" / "train" / "kd-seed0" / "manifest.json")["inputs"]["learning_rate"]
        == best["learning_rate"]
    )
    assert not list((tmp_path / "run").rglob("checkpoints"))
    assert set(metrics(tmp_path, "kd-seed0")) > {"accuracy", "kendall_tau", "top5_accuracy"}
