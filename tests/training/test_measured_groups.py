"""GRKDTrainer on groups of responses: what it measures of them, what it says of their records."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from grkd.models.cut import truncated
from grkd.training.groups_file import read_groups_files
from tests.training.test_grkd_trainer_groups import PROMPTS, made


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher)


@pytest.fixture
def student(teacher: Any) -> Any:
    return truncated(teacher, [0, 2])


def test_columns_that_rankers_read_are_used(tmp_path: Path, student: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And the log says in how many groups nothing stood before another."""
    records = [{**record, "solution": [f"w{number}" for number in range(4, 40, 3)], "note": "x"} for record in PROMPTS]
    verifier = {"name": "verifier", "answer": "solution", "kind": "regex", "pattern": r"(w\d+)"}
    trainer = made(tmp_path, student, None, "grpo", records, rankers=[verifier], logging_steps=1.0)
    assert "keys that are not used: grade, note\n" in capsys.readouterr().err
    trainer.train()
    lines = read_groups_files(tmp_path / "groups")
    of_first = [line for line in lines if line["step"] == 0]
    without = sum(len(set(dict(line["by_ranker"])["verifier"])) == 1 for line in of_first) / len(of_first)
    assert trainer.state.log_history[0]["groups/no_order"] == without
    assert min(log["groups/no_order"] for log in trainer.state.log_history if "loss" in log) < 1
    made(tmp_path / "other", student, None, "grpo", records)  # a function gets every column
    assert "not used" not in capsys.readouterr().err


def test_metrics_are_of_all_responses_whatever_a_method_is_trained_on(
    tmp_path: Path, student: Any, teacher: Any
) -> None:
    """An untrained student has the same metrics under every method, on given responses and on its own."""
    metrics = ["forward_kl_nats", "response_kendall_tau", "response_pair_accuracy"]
    given = [
        {"prompt": f"w{at}", "responses": ["w4", "w5 w6", "w7 w8 w9", "w4 w4"], "teacher_scores": [0.1, 0.4, 0.2, 0.3]}
        for at in range(4, 8)
    ]
    for records in (given, PROMPTS[:3]):
        found = {}
        for method in ("grpo", "dpo", "simpo"):
            trainer = made(tmp_path, student, teacher, method, eval_dataset=records, eval_metrics=metrics)
            found[method] = {name: value for name, value in trainer.evaluate().items() if name[5:] in metrics}
        assert len(found["grpo"]) == 3
        assert found["dpo"] == pytest.approx(found["grpo"], abs=1e-6)
        assert found["simpo"] == pytest.approx(found["grpo"], abs=1e-6)
