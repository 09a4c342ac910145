"""Correlation: margins of z-scores by hand, and dist's two terms."""

import math
from dataclasses import replace

import pytest
import torch

from grkd import losses, objectives
from grkd.errors import UserError
from grkd.objectives.parts.correlation import Correlation
from tests.objectives.parts._scores import a_batch, log_softmax, loss_of, ranked_by, term_of


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_over_the_batch_it_is_margins_of_z_scores(temperature: float) -> None:
    """Every pair of rows within every class, and dist's term."""
    batch = a_batch(rows=5, progress=0.4)
    assert batch.teacher is not None
    term = term_of(batch, Correlation(over="batch", weight=0.3, temperature=temperature))
    assert term.weight == pytest.approx(0.4 * 0.3)
    total = 0.0
    for k in range(6):
        own, others = (
            [math.exp(log_softmax(row, temperature)[k]) for row in x.tolist()] for x in (batch.student, batch.teacher)
        )
        z = []
        for values in (own, others):
            mean = sum(values) / 5
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 5)
            z.append([(value - mean) / deviation for value in values])
        margins = [((z[0][a] - z[0][b]) - (z[1][a] - z[1][b])) ** 2 for a in range(5) for b in range(5) if a != b]
        total += sum(margins) / len(margins) * (5 - 1) / (4 * 5)
    assert term.rows.tolist() == pytest.approx([total / 6] * 5, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_axes_are_dists_terms(temperature: float) -> None:
    batch = a_batch()
    dist = objectives.load("dist", temperature=temperature, t_squared=False)
    theirs = {term.name: term.rows for term in dist.terms(batch)}
    for over, name in (("candidates", "inter_class"), ("batch", "intra_class")):
        part = Correlation(over=over, temperature=temperature)  # type: ignore[arg-type]
        torch.testing.assert_close(term_of(batch, part).rows, theirs[name])


def test_under_a_mask() -> None:
    batch = a_batch(rows=5)
    assert batch.teacher is not None
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[0, 1:] = False  # one candidate: nothing to relate
    found = term_of(replace(batch, mask=mask), Correlation()).rows
    expected = losses.pearson_distance(batch.student.softmax(-1), batch.teacher.softmax(-1))
    torch.testing.assert_close(found[1:], expected[1:])
    assert found[0] == 0.0
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1:, 2] = False  # one row left in this class
    mask[3:] = False
    found = loss_of(replace(batch, mask=mask), Correlation(over="batch"))
    probabilities = [
        values.masked_fill(~mask, -torch.inf)[:3].softmax(-1)[:, [0, 1, 3, 4, 5]].T
        for values in (batch.student, batch.teacher)
    ]
    torch.testing.assert_close(found, losses.pearson_distance(*probabilities).mean())


def test_what_it_says_of_itself() -> None:
    assert not ranked_by(Correlation()).couples_rows
    assert ranked_by(Correlation(over="batch")).couples_rows
    assert ranked_by(Correlation()).head_options(0.5) is None
    with pytest.raises(UserError, match=r"^correlation: temperature must be above 0"):
        Correlation(temperature=0.0)
