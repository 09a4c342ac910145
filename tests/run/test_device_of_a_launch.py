"""A launch on GPUs: what only checks a recipe must not begin its process group for CPUs (gloo)."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from grkd.errors import UserError
from grkd.ranks import ranks
from grkd.recipe import Training
from grkd.run import training
from grkd.run.device import device


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of TrainingArguments, which begins a launch's process group: gloo's if `use_cpu`."""
    found: list[dict[str, Any]] = []

    @dataclasses.dataclass
    class Noted(TrainingArguments):
        def __post_init__(self) -> None:
            found.append(vars(self))

    monkeypatch.setattr(training, "TrainingArguments", Noted)
    return found


@pytest.mark.parametrize(("place", "cpu"), [("cuda:1", False), ("cpu", True)])
def test_checking_a_recipe_leaves_the_launch_its_device(
    place: str, cpu: bool, made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(training, "ranks", lambda: SimpleNamespace(device=torch.device(place)))
    training.check(Training())
    assert [settings["use_cpu"] for settings in made] == [cpu]


@pytest.mark.parametrize(("told", "cpu"), [("true", True), ("false", False)])
def test_a_launch_is_on_cpus_where_accelerate_is_told_so(told: str, cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def state(*, cpu: bool, timeout: object) -> SimpleNamespace:
        asked.append(cpu)
        return SimpleNamespace(device=torch.device("cpu"))

    monkeypatch.setattr("accelerate.PartialState", state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    ranks()
    assert asked == [cpu]
    assert device("auto").type == ("cpu" if cpu else "cuda")


def test_cpus_of_a_launch_that_has_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match=r"device: cpu in a launch on.*accelerate launch --cpu"):
        device("cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device("cpu").type == "cpu"
