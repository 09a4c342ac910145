"""What a reader needs to judge the metrics of a run: versions, hardware, commit, date and command."""

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grkd.ranks import ranks


def environment(command: str) -> dict[str, Any]:
    """Versions, hardware, commit and date: what a reader needs to judge the metrics of a run."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = {name: _version(name) for name in ("grkd", "torch", "transformers", "accelerate", "peft")}
    return {
        **packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": gpu,
        "processes": ranks().num_processes,
        "backend": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,  # nccl, gloo
        "git_commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def command_line() -> str:
    """The command that runs now, as a user would type it."""
    name = Path(sys.argv[0]).name
    return " ".join(["grkd" if name == "__main__.py" else name, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the working directory's repository, or None outside one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
