"""Weights sharded by FSDP2 and copied by DDP over two GPUs: the loss and gradients of one GPU, in float32."""

from pathlib import Path

import pytest
import torch

from tests.kernels._sharded import WAYS, same_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("ways", [WAYS, ("trainer fsdp",)])
def test_two_ranks_make_the_step_of_one(ways: tuple[str, ...], tmp_path: Path) -> None:
    same_step(ways, "cuda", tmp_path)
