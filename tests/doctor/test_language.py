"""`grkd doctor` on language models: a sound recipe is let through, every planted fault is found and named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import cli, recipe
from grkd.doctor import weights
from grkd.doctor.examine import examine
from grkd.doctor.finding import Finding
from grkd.doctor.settings import few_steps
from grkd.models.cut import truncated
from grkd.teacher.annotator import Verdict
from grkd.teacher.local import LocalTeacher
from tests.doctor._faults import LANGUAGE, World, answered, group


@pytest.fixture(scope="module")
def sound(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher, a student of two of its layers, and conversations that the teacher answered."""
    folder = tmp_path_factory.mktemp("sound")
    shutil.copytree(tiny_teacher, folder / "teacher")
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    truncated(model, [0, 2]).save_pretrained(folder / "student")
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(folder / "student")
    answered(tiny_teacher, folder)
    return folder


@pytest.fixture
def world(sound: Path, tmp_path: Path) -> World:
    shutil.copytree(sound, tmp_path / "world")
    return World(tmp_path / "world")


def found(world: World) -> list[Finding]:
    words = list(world.words)
    for name, folder in {"TEACHER": "teacher", "STUDENT": "student"}.items():
        words = [word.replace(name, str(world.folder / folder)) for word in words]
    return examine(recipe.read(world.recipe(), words))


def test_a_sound_recipe_is_let_through(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.recipe()
    before = sorted(world.folder.rglob("*"))
    assert cli.main(["doctor", str(path), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [one for one in findings if one["severity"] != "note"] == []
    assert sorted(world.folder.rglob("*")) == before


@pytest.mark.parametrize("fault", LANGUAGE)
def test_a_fault_is_found(fault: str, world: World) -> None:
    check, plant = LANGUAGE[fault]
    plant(world)
    findings = found(world)
    assert check in [one.check for one in findings], findings
    assert all(one.text and one.do and len(one.text) < 400 for one in findings)


def test_a_place_that_the_teacher_prefers_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def choices(_: Any, prompts: Any, responses: Any, columns: Any) -> list[Verdict]:
        return [Verdict(log_wins=(-0.1, -0.2), first=0.9, cut=False) for _ in prompts]

    monkeypatch.setattr(LocalTeacher, "choices", choices)
    group(world, [1.0, 0.0])
    world.words.append("score.reward=choice")
    (bias,) = [one for one in found(world) if one.check == "position bias"]
    assert "prefers the first place by 40%" in bias.text


def test_a_student_that_teaches_itself_is_not_compared(world: World) -> None:
    world.records(lambda number, record: {**record, "solution": f"w{number % 9}"})
    world.words += ["teacher={self: true, context: solution}"]
    findings = found(world)
    assert [one for one in findings if one.severity != "note"] == []
    (told,) = [one for one in findings if one.check == "teacher"]
    assert told.text.startswith("it is the student with a longer prompt")


def test_memory_that_is_not_there_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "free_memory", lambda _: 1e5)
    assert [one.severity for one in found(world) if one.check == "memory"] == ["error"]


def test_errors_give_a_status_of_their_own(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(world.recipe()), f"student={{model: {world.folder / 'teacher'}}}"]) == 1
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "same model" in shown
    assert "another student" in shown


def test_the_last_step_of_an_epoch_counts_with_fewer_examples(tiny_recipe: Path) -> None:
    small = recipe.read(tiny_recipe, ["training={epochs: 3, batch_size: 8}"])
    (finding,) = few_steps(33, small)
    assert "trains for 15 optimiser steps (33 training examples, 8 per step)" in finding.text
