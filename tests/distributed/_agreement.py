"""What processes of a launch tell each other, as work of tests.distributed._work."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from grkd.errors import UserError
from grkd.models.shard import check_same_weights
from grkd.ranks import from_main, gathered, ranks, wait
from grkd.training.compiled_layers import CompiledLayers
from grkd.training.term_sums import TermSums
from tests.kernels._sharded import tiny


def agreement(folder: Path, device: str) -> dict[str, Any]:
    """What processes tell each other: that one waits, an error of the first one, that weights differ."""
    state, said = ranks(), folder / "said"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"weights": {}}
    with redirect_stderr(_Noted(said)):
        while state.num_processes > 1 and state.is_main_process and not said.exists():
            time.sleep(0.01)  # the first one comes when the other has said that it waits
        wait("agreement", every_seconds=0.01)
    found["said"] = gathered([said.read_text() if said.exists() else ""], "said")[-1]

    def compile_elsewhere() -> None:
        if state.process_index == 1:
            raise RuntimeError("no compiler here")

    layers = CompiledLayers([tiny(1, 1)], wanted=True, device=torch.device(device), backend="eager")
    layers.begin(0.0, compile_elsewhere)
    found["compiled"] = gathered([layers.on], "compiled")

    def fails() -> None:
        raise UserError("the first process knows why")

    found["mistakes"] = gathered([_mistake(lambda: from_main(fails))], "mistakes")
    if state.num_processes > 1:
        own = {"b": 5.0, "c": 3.0} if state.process_index else {"a": 6.0, "c": 1.0}
        terms = TermSums()
        for name, value in own.items():
            terms.add(name, torch.tensor(value), torch.tensor(2.0))
        found["terms"] = terms.means(Accelerator(cpu=device == "cpu"))
    teacher = tiny(2 + state.process_index, 1)
    found["mistakes"] += gathered([_mistake(lambda: check_same_weights(teacher, "teacher"))], "weights")
    return found


class _Noted(io.StringIO):
    """Standard error that is kept in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def write(self, text: str) -> int:
        with self.path.open("a") as stream:
            return stream.write(text)


def _mistake(call: Callable[[], object]) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""
