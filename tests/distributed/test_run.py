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
from tests._forked import on_ranks
from tests.distributed._grkd import command

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
    assert "respond: done before, kept" in log
    assert log.count("kd-seed0: going on where it stopped") == 1
    assert_same_run(one / "run", two / "run")


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
