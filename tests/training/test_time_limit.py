"""Trainings that last so many minutes, by a clock that ticks a second at every look between two steps."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from grkd import cli, schedules
from grkd.language.curve import ExactMatchCurve
from grkd.models.load import load_tokenizer
from grkd.recipe import read
from grkd.training import callbacks
from grkd.training.time_limit import NO_LAST_STEP
from grkd.training.trainer import DistillationTrainer

RECIPE = """
task: language_model
output: {output}
device: cpu
teacher: {{model: {teacher}}}
student: {{layers: [0]}}
data: {{train: {data}, heldout_fraction: 0.2}}
responses: {{source: data, max_new_tokens: 4}}
score: {{signal: live}}
methods: [{{name: grkd, preset: tokens, alpha_shape: linear, alpha_ceiling: 1.0}}]
training: {{minutes: {minutes}, batch_size: 2, learning_rate: 1.0, schedule: {schedule}, warmup: 0.2, log_every: 1,
  save_every: 4, max_grad_norm: 1.0e-9}}
evaluation: {{samples: 0, top_k: 4, batch_size: 8, curve_questions: {questions}, curve_points: 2, answer_tokens: 2}}
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; every optimiser step takes one, everything beside the steps takes a hundred."""
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    real_step, real_save, real_ask = (
        DistillationTrainer.training_step,
        DistillationTrainer.save_model,
        ExactMatchCurve.__init__,
    )

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        now[0] += 100.0 if self.state.global_step == self.first_step else 1.0
        return real_step(self, *arguments, **options)

    def save(self: Any, *arguments: Any, **options: Any) -> Any:
        now[0] += 100.0
        return real_save(self, *arguments, **options)

    def ask(self: Any, path: Any, asked: Any, **options: Any) -> None:
        def slow(model: Any) -> Any:
            now[0] += 100.0
            return asked(model)

        real_ask(self, path, slow, **options)

    monkeypatch.setattr(DistillationTrainer, "first_step", 0, raising=False)
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    monkeypatch.setattr(DistillationTrainer, "save_model", save)
    monkeypatch.setattr(ExactMatchCurve, "__init__", ask)
    return now


def run(tmp_path: Path, teacher: Path, *, seconds: float, schedule: str = "cosine") -> tuple[int, Path]:
    data, questions = tmp_path / "data.jsonl", tmp_path / "questions.jsonl"
    lines = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{n + 3}"} for n in range(10)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions.write_text(json.dumps({"question": "w1 w2", "answer": "w3"}) + "\n")
    path = tmp_path / "recipe.yaml"
    words = {"output": tmp_path / "run", "teacher": teacher, "data": data, "questions": questions}
    path.write_text(RECIPE.format(minutes=seconds / 60, schedule=schedule, **words))
    return cli.main(["run", str(path)]), folder_of(tmp_path)


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / "run" / "train" / "grkd-seed0"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rate(progress: float) -> float:
    """Cosine after a warm-up of a fifth of the time, written out."""
    return progress / 0.2 if progress < 0.2 else (1 + math.cos(math.pi * (progress - 0.2) / 0.8)) / 2


def test_schedules_and_end_go_by_the_clock(tmp_path: Path, tiny_teacher: Path, clock: list[float]) -> None:
    code, folder = run(tmp_path, tiny_teacher, seconds=10)
    assert code == 0
    found = lines(folder / "metrics.jsonl")
    # The first step compiles: it is no part of the time. Then ten steps of a second.
    assert [line["seconds"] for line in found] == pytest.approx([float(n) for n in range(11)])
    progress = [0.0, *(n / 10 for n in range(10))]
    assert [line["progress"] for line in found] == pytest.approx(progress)
    assert [line["alpha"] for line in found] == pytest.approx([schedules.alpha(p) for p in progress])
    assert [line["learning_rate"] for line in found] == pytest.approx([rate(p) for p in progress], abs=1e-5)
    spent = json.loads((folder / "training.json").read_text())
    assert (spent["steps"], spent["seconds"]) == (11, pytest.approx(10.0))
    curve = lines(folder / "curve.jsonl")
    assert [line["step"] for line in curve] == [0, 6, 11]
    assert [line["seconds"] for line in curve] == pytest.approx([0.0, 5.0, 10.0])


def test_what_is_resumed_has_the_time_that_is_left(
    tmp_path: Path, tiny_teacher: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DistillationTrainer.training_step

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(run(tmp_path, tiny_teacher, seconds=10, schedule="linear")[0])
    # An answer that the kill left of a later step, and that is right: the resumed student is another one.
    left = folder_of(tmp_path).with_suffix(".partial") / "curve-questions.jsonl"
    token = load_tokenizer(str(tiny_teacher)).convert_tokens_to_ids("w3")
    left.write_text(json.dumps({"key": "0", "milliseconds": 1, "responses": [[0, [token], True]]}) + "\n")
    monkeypatch.setattr(DistillationTrainer, "first_step", 4)  # the checkpoint's; it compiles anew
    code, folder = run(tmp_path, tiny_teacher, seconds=10, schedule="linear")
    assert code == 0
    found = lines(folder / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["seconds"] for line in found] == pytest.approx([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10])
    assert found[-1]["learning_rate"] == pytest.approx((1 - 0.9) / 0.8, abs=1e-5)
    curve = lines(folder / "curve.jsonl")
    assert [line["step"] for line in curve] == [0, 7, 12]
    assert [line["exact_match"]["value"] for line in curve] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("other", ["epochs=1", "steps=5"])
def test_two_lengths_are_refused(tmp_path: Path, tiny_teacher: Path, other: str) -> None:
    from grkd.errors import UserError

    words = {"output": tmp_path / "run", "teacher": tiny_teacher, "data": "d.jsonl", "questions": "q.jsonl"}
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(minutes=1, schedule="linear", **words))
    assert read(path).training.minutes == 1.0
    assert NO_LAST_STEP > 10**12
    with pytest.raises(UserError, match=rf"training.minutes: given together with {other.split('=')[0]}"):
        read(path, [f"training.{other}"])
