"""What a user's type checker sees of the package: real types, not Any."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPET = """
import torch
import grkd
from grkd import GRKDConfig, GRKDLoss, GRKDTrainer, UserError, objectives

loss = GRKDLoss(seed=1)
reveal_type(loss)
reveal_type(loss.forward(torch.zeros(2, 3), torch.zeros(2, 3), progress=0.5))
reveal_type(objectives.load("grkd", alpha_ceiling=0.5))
reveal_type(GRKDConfig(output_dir="x", method="grkd"))
reveal_type(GRKDTrainer)
reveal_type(UserError("x"))
reveal_type(grkd.groups.top(torch.zeros(2, 3), 2))
reveal_type(grkd.losses.forward_kl(torch.zeros(2, 3), torch.zeros(2, 3)))
GRKDLoss(seed="one")
grkd.no_such_name
"""
REVEALED = [
    "grkd.objectives._module.GRKDLoss",
    "torch._tensor.Tensor",
    "grkd.objectives._base.Objective",
    "grkd.training.grkd_config.GRKDConfig",
    "grkd.training.grkd_trainer.GRKDTrainer",
    "grkd.errors.UserError",
    "grkd.groups._chosen.Group",
    "torch._tensor.Tensor",
]


def test_the_wheel_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "grkd" / "py.typed").is_file()


@pytest.mark.slow
def test_a_users_code_is_checked_against_real_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs the lint extra")
    path = tmp_path / "user.py"
    path.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    revealed = re.findall(r'Revealed type is "(.*)"', ended.stdout)
    assert len(revealed) == len(REVEALED), ended.stdout + ended.stderr
    for found, wanted in zip(revealed, REVEALED, strict=True):
        assert wanted in found
    errors = [line for line in ended.stdout.splitlines() if " error: " in line]
    assert len(errors) == 2, errors
    assert 'Argument "seed" to "GRKDLoss" has incompatible type "str"' in errors[0]
    assert 'Module has no attribute "no_such_name"' in errors[1]
