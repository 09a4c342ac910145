"""The examples run and do what they say."""

import runpy
from pathlib import Path

import pytest

from grkd import objectives
from grkd.errors import UserError

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_any_training_loop() -> None:
    tau = runpy.run_path(str(EXAMPLES / "any_training_loop.py"))["main"](epochs=30)
    assert tau > 0.6


def test_add_a_method() -> None:
    assert runpy.run_path(str(EXAMPLES / "add_a_method.py"))["main"](steps=80) > 0.95


def test_the_methods_path_works_in_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    objective = objectives.load("add_a_method:HingeKD", margin=2)
    assert type(objective).__name__ == "HingeKD"
    with pytest.raises(UserError, match=r"HingeKD: unknown option 'margn' \(did you mean 'margin'\?\)"):
        objectives.load("add_a_method:HingeKD", margn=2)
