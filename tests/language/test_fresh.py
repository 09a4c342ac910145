"""`responses.when: in_training`: students learn from groups that they sample themselves, ranked by anyone."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from grkd import cli, demo
from grkd.reports.groups import held_out_groups, training_groups

ARITHMETIC = {"ranking": [{"part": "pairs", "level": "response", "tau": 0.1}], "anchor": [{"part": "soft_target"}]}


def by_words(prompts: Any, completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    """More words of the record's answer are better; without any word there is no opinion."""
    return [
        float(sum(word in own.split() for word in text.split())) if text.split() else None
        for text, own in zip(completions, answer, strict=True)
    ]


@pytest.fixture
def recipe(tmp_path: Path, tiny_teacher: Path) -> Path:
    """A tiny student on sixteen prompts with groups of three."""
    lines = [{"prompt": f"w{n} w{n + 1}", "answer": f"w{n % 5} w{n % 3}"} for n in range(16)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "task": "language_model",
        "output": "run",
        "device": "cpu",
        "teacher": {"model": str(tiny_teacher)},
        "student": {"layers": [0, 2]},
        "data": {"train": "prompts.jsonl", "heldout_fraction": 0.25},
        "responses": {"source": "student", "when": "in_training", "n": 3, "max_new_tokens": 4, "batch_size": 8},
        "score": {
            "rankers": [{"name": "function", "function": f"{__name__}:by_words", "label": "words"}, "log_prob"],
            "combine": "votes",
        },
        "methods": [
            {"name": "grkd", **ARITHMETIC},
            {"name": "grpo", "rankers": [{"name": "function", "function": f"{__name__}:by_words"}]},
            "dpo",
            "opd",
            "kd",
        ],
        "training": {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "steps_per_generation": 2, "save_every": 1},
        "evaluation": {"top_k": 5, "samples": 1, "sample_tokens": 3},
    }
    path = tmp_path / "fresh.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_from_end_to_end(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(recipe)]) == 0
    run = recipe.parent / "run"
    results = json.loads((run / "results.json").read_text())
    assert set(results["status"].values()) == {"done"}
    parts = {row["method"]: row.get("seconds_per_step") for row in results["rows"]}
    assert set(parts["grkd"]) == set(parts["dpo"]) == {"sample", "rank", "train"}
    assert all(seconds > 0 for seconds in parts["grkd"].values())
    assert parts["kd"] is parts["before"] is None
    for student in ("grkd-seed0", "dpo-seed0"):
        kept = training_groups(run, student)
        assert {group.step for group in kept} == {0, 1, 2}
        assert {len(group.responses) for group in kept} == {3}
        assert list(kept[0].by_ranker) == ["words", "log_prob"]
    assert list(training_groups(run, "grpo-seed0")[0].by_ranker) == ["function"]  # its own rankers
    assert not (run / "train" / "kd-seed0" / "groups").exists()  # learns from the stored responses
    held_out = held_out_groups(run)
    assert set(held_out[0].students) == {"before", *results["status"]}
    assert cli.main(["groups", str(run)]) == 0
    assert "pairs swapped" in capsys.readouterr().out
    assert cli.main(["run", str(recipe)]) == 0  # nothing is made twice
    assert "already done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("responses.n=1", "set responses.n to 2 or more"),
        ("responses.stored_share=1.0", "responses.stored_share"),
        ("score.combine=most", "score.combine"),
        ("responses.when=before", "methods.1: grpo learns from responses that are sampled in training"),
        (
            "methods=[{name: grkd, preset: responses, rankers: [nobody]}]",
            "methods.0.rankers.0: unknown ranker 'nobody'",
        ),
        ("methods=[{name: opd, rankers: [log_prob]}]", "methods.0.rankers: opd compares no responses"),
    ],
)
def test_mistakes(recipe: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(recipe), override]) == 2
    assert message in capsys.readouterr().err
    assert not (recipe.parent / "run" / "respond").exists()  # before anything costs time


def test_a_column_that_no_record_has(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranker = "[{name: verifier, answer: solution}]"
    assert cli.main(["run", str(recipe), f"score.rankers={ranker}"]) == 2
    assert "'solution'" in capsys.readouterr().err


def test_the_demo_on_a_cpu(
    recipe: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`grkd demo --part on-policy` with a tiny model: verifier, then teacher; `grkd groups` on what it leaves."""
    run = recipe.parent / "demo" / "on-policy"
    changes = [f"data.train={recipe.parent / 'prompts.jsonl'}", "device=cpu"]
    changes += [f"{side}.gguf_file=null" for side in ("teacher", "student")]
    changes += ["training.steps=2", "evaluation.top_k=5", "responses.max_new_tokens=3"]
    monkeypatch.setattr(demo, "teacher_folder", lambda: tiny_teacher)
    assert demo.demo(run.parent, part="on-policy", changes=changes) == 0
    assert f"grkd groups {run} --train grkd-seed0" in capsys.readouterr().err.replace("\n", "")
    assert (run.parent / "report.html").exists()
    assert cli.main(["groups", str(run), "--train", "grkd-seed0", "--step", "1"]) == 0
    shown = capsys.readouterr().out
    assert "verifier" in shown
    assert "log_prob" in shown
    kept = training_groups(run, "grkd-seed0")
    assert {len(group.responses) for group in kept} == {4}
    assert {score for group in kept for score in group.by_ranker["verifier"]} <= {0.0, 1.0}
