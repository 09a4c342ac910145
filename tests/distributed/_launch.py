"""Starts processes of this machine as torchrun does, for tests on GPUs; on CPUs tests fork (tests._forked.on_ranks)."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks._launch import Launch

ROOT = Path(__file__).parents[2]
_LIMIT_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a launch ended, and what its processes printed; after a hang or crash where each of them was."""

    status: int
    printed: str


def launch(log: Path, *arguments: str, processes: int = 2, **environment: str) -> Ended:
    """Run `python ARGUMENTS` in every process."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    return python(log, *launcher, *arguments, **environment)


def accelerate(log: Path, *words: str, processes: int) -> Ended:
    """`grkd WORDS` by accelerate's launcher, the student sharded by FSDP2: the command of the guide."""
    options = [f"--num_processes={processes}", "--use_fsdp", "--fsdp_version=2"]
    options += ["--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP", "-m", "grkd"]
    return python(log, "-m", "accelerate.commands.launch", *options, *words)


def python(log: Path, *arguments: str, **environment: str) -> Ended:
    """Run `python ARGUMENTS`; one that takes too long is ended."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **environment}
    with Launch(arguments, log, **settings) as begun:
        status = begun.wait(_LIMIT_SECONDS)
    return Ended(status=status, printed=begun.printed())
