"""The Triton kernels on the CPU: the tests beside this file once more, through Triton's interpreter.

The interpreter is switched on before the first import of triton, hence another process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_through_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GRKD_KERNELS": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark"]
    command += ["-o", "addopts=--import-mode=importlib -q"]  # types of the same calls are checked outside
    files = (
        "test_head.py",
        "test_pairs_head.py",
        "test_all_pairs.py",
        "test_response_log_probs.py",
        "test_draw_tokens.py",
        "test_weighted_pairs.py",
        "test_decode_step.py",
        "test_infinite_scores.py",
    )
    command += [str(HERE / file) for file in files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
