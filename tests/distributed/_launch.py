"""Starts processes of this machine as torchrun does, for tests on GPUs; on CPUs tests fork (tests._forked.on_ranks)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LIMIT_SECONDS = 70


def launch(*arguments: str, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in every process; the launch's exit status and what all of them print."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    return python(*launcher, *arguments, **environment)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`; one that takes too long is ended, and prints where each of its processes was."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(
        command,
        env={**settings, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        output, errors = process.communicate()
    # After a crash faulthandler ends each stack with the names of hundreds of modules, which hide the stacks.
    errors = "".join(line for line in errors.splitlines(keepends=True) if not line.startswith("Extension modules:"))
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
