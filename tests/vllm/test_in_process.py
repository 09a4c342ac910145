"""A real vLLM in the training's process (`make vllm-test`)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="needs make vllm-test"),
]
ROOT = Path(__file__).parents[2]


def test_it_samples_from_the_student_as_it_is(tmp_path: Path) -> None:
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [os.environ["VLLM_PYTHON"], "-W", "ignore", str(Path(__file__).with_name("_in_process.py")), str(tmp_path)],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    before, after = found["greedy"]
    assert before["vllm"] == before["own"]
    assert after["vllm"] == after["own"] != before["own"]
    assert found["difference"] < 1e-3
    assert found["repeated"]
    assert found["steps"] == [0, 1]
    assert found["groups"] == 4
    assert found["moved"] > 0
