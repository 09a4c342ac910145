"""benchmarks/launched_run.py: what it compares, and that a launch which ends too early is no kill."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import launched_run

ROOT = Path(__file__).parents[1]


def test_both_runs_and_two_seeds_are_compared(tmp_path: Path) -> None:
    def write(name: str, values: tuple[float, float], seeds: tuple[int, int] = (0, 1)) -> Path:
        rows: list[dict[str, Any]] = [
            {"method": "kd", "seed": seed, "metric": "m", "value": value, "low": 0.0, "high": 9.0}
            for seed, value in zip(seeds, values, strict=True)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"rows": rows}))
        return tmp_path / name

    first, second = launched_run.compared(write("one", (1.0, 3.0)), write("two", (1.5, 2.0)))
    assert (first["value"], first["two"], first["difference"]) == (1.0, 1.5, 0.5)
    assert "difference_of_seeds" not in first
    assert (second["seed"], second["difference"], second["difference_of_seeds"]) == (1, -1.0, 2.0)
    with pytest.raises(AssertionError, match="other things"):
        launched_run.compared(tmp_path / "one", write("other", (1.0, 1.0), (0, 2)))


def test_a_launch_that_ends_before_the_checkpoint_is_told(tmp_path: Path) -> None:
    words = ["-c", "print('no step was made')"]
    with pytest.raises(RuntimeError, match=r"(?s)no checkpoint of step 4 was written.*no step was made"):
        launched_run.killed(words, tmp_path, tmp_path / "log", step=4, until=time.monotonic() + 60)


def test_a_launch_is_killed_at_the_checkpoint(tmp_path: Path) -> None:
    for step in (2, 4):
        (folder := tmp_path / "run/train/kd.partial/checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
        (folder / "whole").touch()
    begun = time.monotonic()
    words = ["-c", "import time; time.sleep(60)"]
    found = launched_run.killed(words, tmp_path / "run", tmp_path / "log", step=4, until=time.monotonic() + 60)
    assert found == "train/kd.partial/checkpoints/checkpoint-4"
    assert time.monotonic() - begun < 50


def test_the_guides_figures_are_those_of_the_result_file() -> None:
    result = json.loads((launched_run.RESULTS / "2026-11-29-launched-run-fsdp.json").read_text())
    assert (result["processes"], result["backend"]) == (2, "nccl")
    rows = {(row["method"], row["seed"], row["metric"]): row for row in result["rows"]}
    guide = (ROOT / "docs" / "guide" / "several-gpus.md").read_text()
    for method, label in (("kd", "`kd`"), ("fresh", "`grkd` with sampled groups")):
        for seed in (0, 1):
            row = rows[method, seed, "forward_kl_nats"]
            assert f"| {label}, seed {seed} | {row['value']:.3f} | {row['two']:.3f} |" in guide
    assert f"({rows['kd', 1, 'forward_kl_nats']['difference_of_seeds']:.3f})".replace("0.", ".") in guide
    outside = {
        method: [
            row for row in result["rows"] if row["method"] == method and not row["low"] <= row["two"] <= row["high"]
        ]
        for method in ("kd", "fresh")
    }
    assert not outside["kd"]
    assert f"{len(outside['fresh'])} of 24 metrics" in guide
    right = [round(250 * rows["fresh", seed, "exact_match"][name]) for name in ("value", "two") for seed in (0, 1)]
    assert right == [6, 3, 0, 0]
    assert "students answer 6 and 3, those of two processes none, and the teacher 11" in guide
    assert round(250 * rows["teacher", None, "exact_match"]["value"]) == 11
