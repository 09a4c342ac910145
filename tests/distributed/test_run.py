"""`grkd run` by two processes with a sharded student and teacher, failed and resumed: the run of one process."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from grkd import cli
from grkd.training.callbacks import json_lines
from tests._forked import on_ranks
from tests.distributed._grkd import command
from tests.lists._toys import RECIPE as LISTS
from tests.lists._toys import write_lists

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore"),
]


def recipe(folder: Path, teacher: Path, prompts: Path, **changes: Any) -> Path:
    """A recipe whose teacher runs in every step, with questions, in float32."""
    questions = folder / "questions.jsonl"
    lines = [json.dumps({"question": f"w{n} w{n + 1}", "answer": f"w{n}"}) for n in range(5)]
    questions.write_text("\n".join(lines) + "\n")
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
task: language_model
output: {folder / "run"}
device: {changes.get("device", "cpu")}
teacher: {{model: {teacher}, dtype: float32, placement: {changes["placement"]}}}
student: {{layers: [0, 2], dtype: float32}}
data: {{train: {prompts}, heldout_fraction: 0.25}}
responses: {{source: teacher, when: in_training, n: 3, max_new_tokens: 6, batch_size: 6, shard_size: 6}}
score: {{signal: live}}
methods: [kd, {{name: grkd, preset: responses, label: fresh}}]
training: {{steps: 10, batch_size: {changes["batch"]}, learning_rate: 3e-3, log_every: 5, save_every: 4}}
evaluation: {{top_k: 5, samples: 2, sample_tokens: 4, questions: {questions}, answer_tokens: 4}}
"""
    )
    return path


def test_two_processes_make_the_run_of_one(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    assert cli.main(["run", str(recipe(one, tiny_teacher, tiny_prompts, placement="whole", batch=4))]) == 0

    words = ["run", str(recipe(two, tiny_teacher, tiny_prompts, placement="sharded", batch=2))]
    with pytest.raises(AssertionError):
        on_ranks(lambda: as_process(words, fail_at=7), tmp_path / "failed")
    logs = [(tmp_path / "failed" / f"rank-{rank}.log").read_text() for rank in range(2)]
    said = [line for log in logs for line in log.splitlines() if line.startswith("grkd: ")]
    assert said == ["grkd: error: process 1 cannot go on"], logs
    assert "RuntimeError" not in logs[0], "the other process loses its partner, and is silent about it"
    assert (two / "run" / "train" / "kd-seed0.partial" / "checkpoints" / "checkpoint-4" / "whole").exists()

    on_ranks(lambda: as_process(words), tmp_path / "resumed")
    log = (tmp_path / "resumed" / "rank-0.log").read_text()
    assert "respond: already done" in log
    assert log.count("kd-seed0: resuming") == 1
    told = json.loads((two / "run" / "environment.json").read_text())
    assert (told["processes"], told["backend"]) == (2, "gloo")
    assert_same_run(one / "run", two / "run")


def test_a_comparison_by_two_processes(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> None:
    """Trials, final runs and a curve of questions of a sharded student, and rankers, of which each process has all."""
    both = []
    for name, batch in (("one", 4), ("two", 2)):
        (folder := tmp_path / name).mkdir()
        write_lists(folder / "lists.jsonl", count=6)
        write_lists(folder / "heldout.jsonl", count=4, seed=2)
        changes = [
            "training.steps=4",
            "methods=[kd]",
            "evaluation.samples=0",
            f"evaluation.curve_questions={folder / 'questions.jsonl'}",
            "evaluation.curve_every=2",
            "search={trials: 1, learning_rate: [0.01], metric: soft_cross_entropy_nats, steps_share: 0.5}",
        ]
        language = recipe(folder, tiny_teacher, tiny_prompts, placement="whole", batch=batch)
        (small := folder / "lists.yaml").write_text(LISTS.format(output=folder / "lists"))
        both.append(
            [["compare", str(language), *changes], ["run", str(small), "methods=[kd]", f"training.batch_size={batch}"]]
        )
    assert [cli.main(words) for words in both[0]] == [0, 0]

    def two() -> None:
        for words in both[1]:
            as_process(words)

    on_ranks(two, tmp_path / "ranks")
    assert "--use_fsdp is for language models" in (tmp_path / "ranks" / "rank-0.log").read_text()
    for name in ("run/train/kd-seed0/student", "lists/train/kd-seed0/model"):
        one, found = (load_file(tmp_path / each / name / "model.safetensors") for each in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=f"{name}: {key}")
    trials = [json.loads((tmp_path / each / "run" / "search.json").read_text())[0]["value"] for each in ("one", "two")]
    assert trials[1] == pytest.approx(trials[0], rel=1e-5)
    curves = [json_lines(tmp_path / each / "run/train/kd-seed0/curve.jsonl") for each in ("one", "two")]
    assert [line["step"] for line in curves[1]] == [0, 2, 4]
    assert [line["exact_match"] for line in curves[1]] == [line["exact_match"] for line in curves[0]]


def as_process(words: Sequence[str], *, fail_at: int | None = None) -> None:
    """`grkd WORDS` in a fork of the test: what it prints goes to the fork's log, and its status ends the fork."""
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    if status := command(words, way="fsdp", fail_at=fail_at):
        sys.stderr.flush()
        os._exit(status)
    sys.stderr.flush()


def assert_same_run(one: Path, two: Path, *, atol: float = 1e-6) -> None:
    """Students to `atol`, metrics to ten times that relative to their size, the same answers, groups and examples."""
    for method in ("kd", "fresh"):
        name = Path("train") / f"{method}-seed0" / "student" / "model.safetensors"
        expected, found = load_file(one / name), load_file(two / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=atol, msg=f"{method}: {key}")
        for name in ("exact_match.json", "answers.json"):
            ours, theirs = (folder / "evaluate" / f"{method}-seed0" / name for folder in (one, two))
            assert ours.read_bytes() == theirs.read_bytes(), name
    rows = [json.loads((folder / "results.json").read_text())["rows"] for folder in (one, two)]
    assert [(row["method"], row["metric"]) for row in rows[0]] == [(row["method"], row["metric"]) for row in rows[1]]
    assert {"exact_match", "response_kendall_tau"} <= {row["metric"] for row in rows[0]}
    for ours, theirs in zip(*rows, strict=True):
        for key in ("value", "low", "high"):
            assert theirs[key] == pytest.approx(ours[key], rel=10 * atol, abs=10 * atol), (ours["metric"], key)
        assert [theirs.get(key) for key in ("steps", "rows_seen")] == [ours.get(key) for key in ("steps", "rows_seen")]
    groups = [len(pq.read_table(folder / "train" / "fresh-seed0" / "groups")) for folder in (one, two)]
    assert groups[0] == groups[1]
    assert (two / "report.html").exists()
    assert {path.name for path in two.rglob("*.jsonl")} == {"metrics.jsonl"}, "journals of answers are gone"
