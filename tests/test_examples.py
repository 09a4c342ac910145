"""The examples run and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_any_training_loop() -> None:
    tau = runpy.run_path(str(EXAMPLES / "any_training_loop.py"))["main"](epochs=30)
    assert tau > 0.6
