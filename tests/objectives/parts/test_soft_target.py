"""Soft targets: every divergence by hand, at both levels and over the batch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from grkd import losses
from grkd.errors import UserError
from grkd.objectives import Batch
from grkd.objectives.parts.soft_target import SoftTarget
from tests.objectives.parts._scores import a_batch, log_softmax, loss_of, ranked_by, responses, term_of


def by_hand(divergence: str, s: list[float], t: list[float], temperature: float) -> float:
    q, p = ([math.exp(value) for value in log_softmax(x, temperature)] for x in (s, t))
    mixture = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(left: list[float], right: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(left, right, strict=True))

    entropy = -sum(a * math.log(a) for a in p)
    found = {
        "cross_entropy": kl(p, q) + entropy,
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jsd": kl(p, mixture) / 2 + kl(q, mixture) / 2,
    }
    return found[divergence]


@pytest.mark.parametrize("divergence", ["cross_entropy", "forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_every_divergence_by_hand(divergence: Any, temperature: float) -> None:
    for batch in (a_batch(progress=0.3), responses()):
        part = SoftTarget(divergence=divergence, temperature=temperature, level=batch.level, t_squared=True)
        term = term_of(batch, part)
        assert term.name == ("soft_target" if divergence == "cross_entropy" else divergence)
        assert batch.teacher is not None
        for row in range(len(batch.student)):
            exists = slice(None) if batch.mask is None else batch.mask[row]
            s, t = batch.student[row, exists].tolist(), batch.teacher[row, exists].tolist()
            expected = temperature**2 * by_hand(divergence, s, t, temperature)
            assert term.rows[row].item() == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("divergence", ["cross_entropy", "forward_kl", "jsd"])
def test_a_class_that_the_teacher_rules_out_counts_as_0(divergence: Any, masked: bool) -> None:
    """In every row, or in some: over the batch as if it were one of probability e^-200 there, and 0 if everywhere."""
    batch, part = a_batch(rows=4), SoftTarget(divergence=divergence, over="batch")
    mask = None if not masked else torch.ones_like(batch.student, dtype=torch.bool)
    assert batch.teacher is not None
    some, near = batch.teacher.clone(), batch.teacher.clone()
    some[:2, 1], near[:2, 1] = -torch.inf, -200.0
    given = replace(batch, mask=mask, student=batch.student.clone().requires_grad_())
    found, expected = (loss_of(replace(given, teacher=teacher), part) for teacher in (some, near))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, given.student)[0] for loss in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    batch.teacher[:, 1] = -torch.inf
    ruled_out = loss_of(replace(given, teacher=batch.teacher), part)
    classes = torch.arange(batch.student.shape[-1]) != 1
    kept = [torch.log_softmax(each, -1)[:, classes] for each in (given.student, batch.teacher)]
    shares = [each.log_softmax(0).T for each in kept]
    by_class = SoftTarget(divergence=divergence)._distance(*shares, None)
    torch.testing.assert_close(ruled_out, by_class.sum() / len(classes))
    assert bool(torch.autograd.grad(ruled_out, given.student)[0].isfinite().all())


@pytest.mark.parametrize("divergence", ["cross_entropy", "forward_kl", "reverse_kl", "jsd"])
def test_gradcheck(divergence: Any) -> None:
    batch = a_batch(rows=3)
    for over in ("candidates", "batch"):
        part = SoftTarget(divergence=divergence, temperature=1.7, over=over)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(
            lambda student, part=part: loss_of(replace(batch, student=student), part),
            batch.student.clone().requires_grad_(),
        )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_lists_over_the_batch_by_hand(temperature: float) -> None:
    batch = a_batch(rows=4, progress=0.4)
    assert batch.teacher is not None
    term = term_of(batch, SoftTarget(over="batch", divergence="forward_kl", weight=0.3, temperature=temperature))
    assert term.weight == pytest.approx(0.4 * 0.3)
    total = 0.0
    for k in range(6):
        own, others = (
            [math.exp(log_softmax(row, temperature)[k]) for row in x.tolist()] for x in (batch.student, batch.teacher)
        )
        s, t = ([value / sum(values) for value in values] for values in (own, others))
        total += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
    assert term.rows.tolist() == pytest.approx([total / 6] * 4, rel=1e-10)


def test_lists_under_a_mask_count_classes_of_two_rows() -> None:
    batch = a_batch(rows=4)
    assert batch.teacher is not None
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1:, 2] = False  # one row left in this class
    mask[3] = False
    found = loss_of(replace(batch, mask=mask), SoftTarget(over="batch", divergence="forward_kl"))
    shares = []
    for values in (batch.student, batch.teacher):
        probabilities = values.masked_fill(~mask, -torch.inf)[:3].softmax(-1)[:, [0, 1, 3, 4, 5]]
        shares.append(probabilities / probabilities.sum(0))
    own, others = shares
    torch.testing.assert_close(found, (others * (others / own).log()).sum(0).mean())


def test_the_head_gets_its_divergence() -> None:
    found = SoftTarget(weight=2.0, temperature=3.0, t_squared=True, divergence="reverse_kl").head_options()
    assert found == {"soft_scale": 2.0, "divergence": "reverse_kl", "temperature": 3.0, "t_squared": True}
    default = SoftTarget().head_options()
    assert default is not None
    assert default["divergence"] == "soft_target"
    assert SoftTarget(over="batch").head_options() is None


def test_the_default_is_the_papers() -> None:
    batch = a_batch(progress=0.0)
    assert isinstance(batch, Batch)
    assert batch.teacher is not None
    terms = ranked_by().terms(batch)
    torch.testing.assert_close(terms[0].rows, losses.soft_target(batch.student, batch.teacher))


def test_values_out_of_range_are_refused() -> None:
    for option, value in (("temperature", 0.0), ("weight", -1.0), ("divergence", "tv"), ("over", "rows")):
        with pytest.raises((UserError, TypeCheckError), match=option):
            SoftTarget(**{option: value})  # type: ignore[arg-type]
