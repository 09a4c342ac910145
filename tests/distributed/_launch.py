"""Starts processes of this machine as torchrun does, for tests on GPUs; on CPUs tests fork (tests._forked.on_ranks)."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._launch import Launch, by_accelerate

ROOT = Path(__file__).parents[2]
_LIMIT_SECONDS = 90
# Changes of test_run.recipe: one method, whose groups are sampled in training, four steps, no answers.
FEW = ["methods=[{name: grkd, preset: responses, label: fresh}]", "training.steps=4"]
FEW += ["evaluation.questions=null", "evaluation.samples=0"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a launch ended, and what its processes printed; after a hang or crash where each of them was."""

    status: int
    printed: str

    def crashed(self, lines: int = 20) -> str:
        """The native stack of the thread in which a signal was raised, if tests.distributed._native_stacks ran."""
        every = self.printed.splitlines(keepends=True)
        begins = [number for number, line in enumerate(every) if "::fatalSignalHandler" in line]
        return "".join(line for begin in begins for line in every[max(0, begin - 2) : begin + lines])


def launch(
    log: Path, *arguments: str, meanwhile: Callable[[], object] = lambda: None, processes: int = 2, **environment: str
) -> Ended:
    """Run `python ARGUMENTS` in every process. meanwhile: what this process does until they end."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    return python(log, *launcher, *arguments, meanwhile=meanwhile, **environment)


def accelerate(log: Path, *words: str, processes: int, way: str = "fsdp") -> Ended:
    """`grkd WORDS` by accelerate's launcher, the student sharded by FSDP2 or copied ("ddp"): the commands of the guide,
    and if one crashes native stacks too."""
    words = ("-m", "tests.distributed._native_stacks", "grkd", *words)
    return python(log, *by_accelerate(processes, way), *words)


def python(log: Path, *arguments: str, meanwhile: Callable[[], object] = lambda: None, **environment: str) -> Ended:
    """Run `python ARGUMENTS`; one that takes too long is ended.

    Where the test's own time limit comes first, the log with each process's stack is part of the test's report.
    """
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **environment}
    begun = Launch(arguments, log, **settings)
    try:
        with begun:
            meanwhile()
            status = begun.wait(_LIMIT_SECONDS)
    except BaseException:
        print(begun.printed()[-8000:])
        raise
    return Ended(status=status, printed=begun.printed())
