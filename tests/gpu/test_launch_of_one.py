"""A launch of one process on one GPU: NCCL, FSDP2 and the launcher at work without a second GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import _work
from tests.distributed._launch import accelerate, launch
from tests.distributed.test_run import recipe
from tests.distributed.test_training import assert_same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),
]
NAMES = ["steps", "fused", "on_policy", "resumed", "lora", "reference"]


def test_accelerate_launch_starts_a_run(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> None:
    """In 16 bits as a GPU's default, the teacher in the host's memory: it ends, and each stage is whole.

    One method, four steps, no answers: what takes the time is two Pythons and kernels that are compiled.
    """
    written = recipe(tmp_path, tiny_teacher, tiny_prompts, device="auto", placement="offloaded", batch=4)
    written.write_text(written.read_text().replace("dtype: float32", "dtype: auto"))
    small = ["methods=[{name: grkd, preset: responses, label: fresh}]", "training.steps=4"]
    small += ["evaluation.questions=null", "evaluation.samples=0"]
    ran = accelerate(tmp_path / "log", "run", str(written), *small, processes=1)
    assert ran.status == 0, ran.printed[-6000:]
    for stage in ("prepare", "respond", "score", "train/fresh-seed0", "evaluate/fresh-seed0"):
        assert (tmp_path / "run" / stage / "manifest.json").exists(), stage


def test_a_student_sharded_over_one_process_is_the_plain_one(tmp_path: Path) -> None:
    ran = launch(tmp_path / "log", "tests/distributed/_work.py", "cuda", str(tmp_path), "fsdp", *NAMES, processes=1)
    assert ran.status == 0, ran.printed[-6000:]
    for name in NAMES:
        found: dict[str, Any] = torch.load(tmp_path / f"fsdp-{name}.pt", weights_only=True)
        assert_same(name, _work.WORK[name](tmp_path / "plain", "cuda"), found, atol=1e-4)
