"""Sequence-level KD: cross-entropy on the teacher's responses."""

import torch
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.objectives import Batch, combine


def test_cross_entropy_on_the_teachers_responses() -> None:
    student = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 5, -100, 2, 2])
    method = objectives.load("seqkd")
    loss = combine(method.terms(Batch(student=student, labels=labels)))
    torch.testing.assert_close(loss, cross_entropy(student, labels))
    assert method.trains_on == "teacher"
    assert not method.needs_teacher
    assert method.levels == ("row",)


def test_every_token_weighs_the_same() -> None:
    """A long response counts for more than a short one: the divisor is the number of tokens."""
    student = torch.zeros(4, 2, dtype=torch.float64)
    student[3, 0] = 1.0
    batch = Batch(student=student, labels=torch.zeros(4, dtype=torch.int64), response=torch.tensor([0, 0, 0, 1]))
    expected = (3 * torch.tensor(2.0).log() + (1 + torch.tensor(-1.0).exp()).log()) / 4
    torch.testing.assert_close(combine(objectives.load("seqkd").terms(batch), rows=4), expected.double())
