"""Weights sharded by FSDP2 and copied by DDP over two CPU ranks: the loss and gradients of one process."""

from pathlib import Path

import pytest
import torch

from tests.kernels._sharded import WAYS, same_step


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_make_the_step_of_one(tmp_path: Path) -> None:
    same_step(WAYS, "cpu", tmp_path)
