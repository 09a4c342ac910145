"""A launch of one process on one GPU: NCCL, FSDP2 and the launcher at work without a second GPU."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType

from benchmarks import _ways
from tests.distributed import _work
from tests.distributed._launch import FEW, accelerate
from tests.distributed.test_run import recipe
from tests.distributed.test_training import assert_same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),
]
NAMES = ["steps", "fused", "compiled", "on_policy", "resumed", "lora", "reference"]


def test_accelerate_launch_starts_a_run(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> None:
    """In 16 bits as a GPU's default, the teacher in the host's memory: it ends, and each stage is whole.

    One method, four steps, no answers: what takes the time is two Pythons and kernels that are compiled.
    """
    written = recipe(tmp_path, tiny_teacher, tiny_prompts, device="auto", placement="offloaded", batch=4)
    written.write_text(written.read_text().replace("dtype: float32", "dtype: auto"))
    ran = accelerate(tmp_path / "accelerate.log", "run", str(written), *FEW, processes=1)
    assert ran.status == 0, ran.printed[-6000:]
    for stage in ("prepare", "respond", "score", "train/fresh-seed0", "evaluate/fresh-seed0"):
        assert (tmp_path / "run" / stage / "manifest.json").exists(), stage
    assert "nccl" in json.loads((tmp_path / "run" / "environment.json").read_text())["backend"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the only one of a launch whose students are sharded: no second Python, kernels compiled once."""
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    _forget()
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    _ways.use("fsdp")
    yield
    _ways.use("ddp")
    torch.distributed.destroy_process_group()
    _forget()


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process without a launch makes."""
    folder = tmp_path_factory.mktemp("plain")
    return {name: _work.WORK[name](folder / name, "cuda") for name in NAMES}


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("name", NAMES)
def test_a_student_sharded_over_one_process_is_the_plain_one(name: str, plain: dict[str, Any], tmp_path: Path) -> None:
    found = _work.WORK[name](tmp_path, "cuda")
    assert AcceleratorState().distributed_type == DistributedType.FSDP
    assert_same(name, plain[name], found, atol=1e-4)
