"""OPD: the reverse KL over the vocabulary, on the student's own responses."""

import pytest
import torch

from grkd import objectives
from grkd.errors import UserError
from grkd.kernels import distillation_head
from grkd.objectives import Batch, combine


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_equals_the_reverse_kl(temperature: float) -> None:
    torch.manual_seed(0)
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64)
    loss = combine(objectives.load("opd", temperature=temperature).terms(Batch(student=student, teacher=teacher)))
    own, other = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    wanted = torch.stack(
        [
            sum((own[row, v].exp() * (own[row, v] - other[row, v]) for v in range(7)), torch.tensor(0.0))
            for row in range(5)
        ]
    ).mean()
    torch.testing.assert_close(loss, wanted)


def test_is_gkd_at_its_limit() -> None:
    torch.manual_seed(1)
    batch = Batch(student=torch.randn(3, 5), teacher=torch.randn(3, 5))
    ours, theirs = objectives.load("opd"), objectives.load("gkd", beta=1.0, on_policy_fraction=1.0)
    assert combine(ours.terms(batch)) == combine(theirs.terms(batch))
    assert ours.on_policy == theirs.on_policy == 1.0


def test_the_fused_head_computes_it() -> None:
    torch.manual_seed(2)
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    teacher_hidden, teacher_weight = torch.randn(6, 3), torch.randn(9, 3)
    method = objectives.load("opd", temperature=1.5)
    options = method.head_options(0.3)
    assert options is not None
    fused = distillation_head(
        student_hidden=hidden,
        student_weight=weight,
        teacher_hidden=teacher_hidden,
        teacher_weight=teacher_weight,
        **options,
    )
    plain = combine(method.terms(Batch(student=hidden @ weight.T, teacher=teacher_hidden @ teacher_weight.T)))
    torch.testing.assert_close(fused, plain)


def test_it_always_samples() -> None:
    with pytest.raises(UserError, match="on_policy_fraction must be above 0"):
        objectives.load("opd", on_policy_fraction=0.0)
