"""`grkd plan` of classifiers and rankers."""

import json
from pathlib import Path

import pytest

from grkd import cli, recipe
from grkd.planning import steps as step_costs
from tests.lists._toys import write_lists


@pytest.mark.parametrize("task", ["classifier", "rank"])
def test_the_command_measures_classifiers_and_rankers(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_costs, "_MORE", 6)
    monkeypatch.setattr(step_costs, "_MOST", 8)
    write_lists(tmp_path / "lists.jsonl", count=24)
    text = {
        "classifier": "data: {dataset: digits, limit: 100, heldout_fraction: 0.5}\nmethods: [kd]\n"
        "teacher: {model: mlp, options: {hidden: [8]}, training: {epochs: 2, batch_size: 40}}\n"
        "student: {model: mlp, options: {hidden: [4]}}\ntraining: {epochs: 3, batch_size: 30}",
        "rank": "data: {train: lists.jsonl}\nmethods: [kd]\nstudent: {dimensions: 4}\n"
        "training: {epochs: 2, batch_size: 5}",
    }[task]
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: {task}\noutput: run\ndevice: cpu\n{text}\n")
    assert cli.main(["plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    expected = {"classifier": (9, 4, 898), "rank": (8, 0, 5)}[task]
    counts = plan["counts"]
    assert (counts["steps per student"], counts.get("steps of the teacher", 0), counts["held out"]) == expected
    assert plan["stages"][0]["seconds"] > 0
    assert plan["disk"]["run folder"] > 0
    assert plan["peak"] == plan["memory"]["measured"] > 1e8  # Python and its libraries alone take more
    assert not (tmp_path / "run").exists()


def test_steps_are_those_beyond_a_second_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First uses (10 s) are in the first run alone; a step takes 0.01 s, one of the teacher 0.1 s, the rest 3 s."""
    runs: list[Path] = []

    def timed(_: object, folder: Path, steps: int, teacher_steps: int) -> tuple[float, float]:
        runs.append(folder)
        return (10.0 if len(runs) == 1 else 0.0) + 3.0 + 0.01 * steps + 0.1 * teacher_steps, 5.0

    monkeypatch.setattr(step_costs, "_timed", timed)
    monkeypatch.setattr(step_costs, "report_seconds", lambda *_: 0.5)
    monkeypatch.setattr(step_costs, "check_first", lambda _: None)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: classifier\noutput: run\ndevice: cpu\ndata: {dataset: digits}\nmethods: [kd]\n"
        "teacher: {model: mlp, options: {hidden: [8]}, training: {epochs: 2}}\n"
        "student: {model: mlp, options: {hidden: [4]}}\n"
    )
    found = step_costs.measure_steps(recipe.read(path, []))
    assert (found.step, found.teacher_step) == (pytest.approx(0.01), pytest.approx(0.1))
    assert found.rest == pytest.approx(13.0, abs=0.01)
    assert found.again == pytest.approx(3.0)
    assert len(runs) == 5  # 50 steps of 0.01 s are too short to be told apart: 400 are measured
