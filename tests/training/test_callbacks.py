"""What is counted and checked at the end of a training, wherever the last log was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import cli
from grkd.training.callbacks import MetricsFile
from grkd.training.trainer import DistillationTrainer

RECIPE = """
task: classifier
output: {output}
device: cpu
data: {{dataset: digits, limit: 300}}
teacher: {{model: mlp, options: {{hidden: [16]}}, training: {{epochs: 2, batch_size: 32, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [6]}}}}
methods: [kd]
training: {{steps: {steps}, batch_size: 8, learning_rate: 1e-2, log_every: 10, save_every: 4,
  extra: {{dataloader_pin_memory: false}}}}  # a setting of the Trainer's: else students are trained in lock-step
"""


def trained(tmp_path: Path, steps: int) -> dict[str, Any]:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "run", steps=steps))
    assert cli.main(["run", str(path)]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "run" / "train" / "kd-seed0" / "training.json").read_text())
    return found


@pytest.mark.parametrize("steps", [6, 10, 13])
def test_rows_are_counted_to_the_last_step(tmp_path: Path, steps: int) -> None:
    found = trained(tmp_path, steps)
    assert (found["steps"], found["rows_seen"]) == (steps, steps * 8)


def test_rows_before_a_kill_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in step 7: the checkpoint is of step 4, the last regular log of step 1."""
    trained(tmp_path, 1)  # the teacher
    real, calls = DistillationTrainer.training_step, []

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "training_step", killed)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "run", steps=9))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(cli.main(["run", str(path)]))
    assert len(calls) == 7
    assert trained(tmp_path, 9)["rows_seen"] == 9 * 8
    assert len(calls) == 7 + 5


def test_a_training_lost_after_the_last_regular_log_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, 1)  # the teacher
    real, calls = DistillationTrainer.training_step, []

    def lost(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)
        return real(self, model, *arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "training_step", lost)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "run", steps=7).replace("save_every: 4", "save_every: 100"))
    assert cli.main(["run", str(path)]) == 1
    assert "FloatingPointError" in (tmp_path / "run" / "results.json").read_text()


def test_what_each_part_of_a_step_took(tmp_path: Path) -> None:
    """By hand: the first step is left out of the seconds (2 of its 3 s are), ten steps of 1 s follow, and five of 2."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    lines: list[dict[str, Any]] = [
        {"step": 1, "seconds": 1.0, "seconds_per_step": {"sample": 2.0, "rank": 1.0}},
        {"step": 11, "seconds": 11.0, "seconds_per_step": {"sample": 0.25, "rank": 0.5}},
        {"step": 16, "seconds": 21.0, "seconds_per_step": {"sample": 0.5, "rank": 0.0}},
    ]
    metrics.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics.seconds, metrics.rows_seen = 21.0, 160.0
    found = metrics.spent(16)
    sample, rank = 2 / 3 + 2.5 + 2.5, 1 / 3 + 5.0
    expected = {"sample": sample / 16, "rank": rank / 16, "train": (21 - sample - rank) / 16}
    assert found.pop("seconds_per_step") == pytest.approx(expected)
    assert found == {"steps": 16, "seconds": 21.0, "rows_seen": 160}
    metrics.path.write_text("".join(json.dumps({**line, "seconds_per_step": {}}) + "\n" for line in lines))
    assert metrics.spent(16) == found
