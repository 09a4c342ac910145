"""Supervised fine-tuning: cross-entropy on the data's responses."""

import torch
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.objectives import Batch, combine


def test_cross_entropy_on_the_datas_responses() -> None:
    student = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 5, -100, 2, 2])
    method = objectives.load("sft")
    torch.testing.assert_close(
        combine(method.terms(Batch(student=student, labels=labels))), cross_entropy(student, labels)
    )
    assert method.trains_on == "data"
    assert not method.needs_teacher
    assert method.levels == ("row",)
