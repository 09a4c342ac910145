"""A real vLLM in the training's process (`make vllm-test`)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="needs make vllm-test"),
]
ROOT = Path(__file__).parents[2]


def run(*words: str, processes: int = 1) -> dict[str, Any]:
    """What _in_process.py found, by the Python that has vLLM."""
    names = ("VLLM_CPU_KVCACHE_SPACE", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "OMP_NUM_THREADS")
    settings = dict.fromkeys(names, "1")
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    script = str(Path(__file__).with_name("_in_process.py"))
    done = subprocess.run(
        [os.environ["VLLM_PYTHON"], "-W", "ignore", *(launcher if processes > 1 else []), script, *words],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_samples_from_the_student_as_it_is() -> None:
    found = run("compared")
    before, after = found["greedy"]
    assert before["vllm"] == before["own"]
    assert after["vllm"] == after["own"] != before["own"]
    assert found["difference"] < 1e-3
    assert found["repeated"]
    adapted = found["adapted"]
    assert adapted["vllm"] == adapted["own"] != adapted["plain"]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """LoRA on groups by vLLM, an engine per process; of the prompt that is scored first a process has none."""
    one = run("trained", str(tmp_path / "one"))
    assert one["moved"] > 0.1
    assert {step for step, _, _ in one["groups"]} == {0, 1, 2}
    two = run("trained", str(tmp_path / "two"), processes=2)
    assert two["groups"] == one["groups"]
    assert two["moved"] == pytest.approx(one["moved"], rel=1e-5)
