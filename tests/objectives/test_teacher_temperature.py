"""teacher_temperature: every method on the teacher's probabilities has it, and it does the same in each."""

from typing import Any

import pytest
import torch

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch

METHODS: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 1.5, "label_weight": 0.5},
    "dkd": {"temperature": 1.5, "warmup": 0.0},
    "dist": {"temperature": 1.5},
    "gkd": {"temperature": 1.5},
    "opd": {"temperature": 1.5},
    "grkd": {"alpha_shape": "constant", "alpha_ceiling": 0.5},
}


def batch(teacher: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        student=torch.randn(6, 5, generator=generator, dtype=torch.float64),
        teacher=teacher,
        labels=torch.randint(5, (6,), generator=generator),
        progress=0.5,
        seeds=torch.Generator().manual_seed(2),
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_method_with_the_teachers_scores_divided(name: str) -> None:
    teacher = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = objectives.load(name, **METHODS[name])
    sharp = objectives.load(name, **METHODS[name], teacher_temperature=0.5)
    found = objectives.combine(sharp.terms(batch(teacher)))
    torch.testing.assert_close(found, objectives.combine(plain.terms(batch(teacher / 0.5))))
    assert not torch.isclose(found, objectives.combine(plain.terms(batch(teacher))))


@pytest.mark.parametrize("name", METHODS)
def test_it_must_be_above_zero_and_keeps_the_fused_head_away(name: str) -> None:
    with pytest.raises(UserError, match="teacher_temperature must be above 0"):
        objectives.load(name, teacher_temperature=0.0)
    assert objectives.load(name, teacher_temperature=0.5).head_options(0.5) is None


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_z_scores_would_undo_it(name: str) -> None:
    with pytest.raises(UserError, match="standardize undoes teacher_temperature"):
        objectives.load(name, standardize=True, teacher_temperature=0.5)
