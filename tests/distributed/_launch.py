"""Starts two processes of this machine as `accelerate launch` does, on CPUs over gloo or on GPUs over NCCL."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(*arguments: str, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in every process; the launch's exit status and what all of them print."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(
        [*launcher, *arguments], env=settings, capture_output=True, text=True, timeout=220, check=False
    )
