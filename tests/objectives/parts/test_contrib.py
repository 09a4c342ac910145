"""Parts that research left behind: weights of pairs, margins, z-scores, the advantage."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from grkd import groups, losses
from grkd.errors import UserError
from grkd.losses import rank_discount, standardized, weighted_pairs
from grkd.objectives import Batch
from grkd.objectives.contrib.advantage import Advantage
from grkd.objectives.contrib.margins import Margins
from grkd.objectives.contrib.weighted_pairs import WeightedPairs
from grkd.objectives.contrib.z_score_correlation import ZScoreCorrelation
from grkd.objectives.contrib.z_score_pairs import ZScorePairs
from grkd.objectives.contrib.z_score_soft_target import ZScoreSoftTarget
from grkd.objectives.parts import Part
from grkd.objectives.parts.correlation import Correlation
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.parts.soft_target import SoftTarget
from tests.objectives.parts._scores import a_batch, loss_of, ranked_by, responses, term_of


@pytest.mark.parametrize("target", ["hard", "soft", "margin"])
@pytest.mark.parametrize("normalize", ["pairs", "candidates"])
def test_weights_of_all_candidates(target: str, normalize: Any) -> None:
    batch = a_batch()
    assert batch.teacher is not None
    gaps = (batch.teacher / 3).softmax(-1)
    options = {"normalize": normalize, "tau": 2.0}
    for by, importance in (("probability_gap", gaps), ("rank", rank_discount(batch.teacher))):
        expected = weighted_pairs(batch.student, batch.teacher, importance=importance, pair_target=target, **options)
        part = WeightedPairs(by=by, temperature=3.0, target=target, **options)
        torch.testing.assert_close(loss_of(batch, part), expected.mean())


def test_weights_of_a_group() -> None:
    """Probabilities are those of all candidates of the row, ranks those of the group."""
    batch = a_batch(candidates=12)
    assert batch.teacher is not None
    chosen = groups.sample(batch.teacher, 5, generator=torch.Generator().manual_seed(3))
    student, teacher = batch.student.gather(-1, chosen.indices), batch.teacher.gather(-1, chosen.indices)
    gaps = batch.teacher.softmax(-1).gather(-1, chosen.indices)
    for by, importance in (("probability_gap", gaps), ("rank", rank_discount(teacher))):
        again = replace(batch, seeds=torch.Generator().manual_seed(3))
        found = loss_of(again, WeightedPairs(by=by, group="sample", group_size=5))
        torch.testing.assert_close(found, weighted_pairs(student, teacher, importance=importance).mean())


def test_margins_count_ties_and_rows_of_two() -> None:
    # A tie of the teacher has margin 0 and is learnt; with weights it weighs nothing.
    batch = Batch(student=torch.tensor([[1.0, 0.0]]), teacher=torch.tensor([[2.0, 2.0]]))
    assert loss_of(batch, Margins(tau=2.0)).item() == pytest.approx(0.25 / 8)
    assert loss_of(batch, WeightedPairs(by="rank", target="margin")) == 0
    assert loss_of(batch, Pairs()) == 0


def test_z_scores_are_the_parts_on_other_scores() -> None:
    batch = a_batch()
    assert batch.teacher is not None
    scaled = replace(batch, student=standardized(batch.student), teacher=standardized(batch.teacher))
    both: list[tuple[Part, Part]] = [
        (ZScorePairs(tau=0.7), Pairs(tau=0.7)),
        (ZScoreSoftTarget(temperature=2.0), SoftTarget(temperature=2.0)),
        (ZScoreSoftTarget(over="batch"), SoftTarget(over="batch")),
        (ZScoreCorrelation(over="batch"), Correlation(over="batch")),
    ]
    for of_z_scores, plain in both:
        torch.testing.assert_close(loss_of(batch, of_z_scores), loss_of(scaled, plain))
        assert not torch.isclose(loss_of(batch, of_z_scores), loss_of(batch, plain))


def test_the_advantage_at_both_levels() -> None:
    for batch in (a_batch(progress=0.25), responses(0.25)):
        term = term_of(batch, Advantage(weight=3.0, temperature=0.5, level=batch.level))
        assert (term.name, term.weight) == ("advantage", pytest.approx(0.75))
        assert batch.teacher is not None
        expected = losses.expected_disagreement(batch.student, batch.teacher, mask=batch.mask, temperature=0.5)
        torch.testing.assert_close(term.rows, expected)


@pytest.mark.parametrize(
    "part",
    [WeightedPairs(), Margins(), Advantage(), ZScorePairs(), ZScoreSoftTarget(), ZScoreCorrelation()],
    ids=lambda part: type(part).__name__,
)
def test_the_fused_head_leaves_them_to_torch(part: Part) -> None:
    assert ranked_by(Pairs()).head_options(0.5) is not None
    assert ranked_by(part).head_options(0.5) is None
    assert part.head_options() is None


def test_values_out_of_range_are_refused() -> None:
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (WeightedPairs, {"by": "gain"}, "by"),
        (WeightedPairs, {"target": "x"}, "unknown target 'x'"),
        (Margins, {"tau": 0.0}, "tau"),
        (Advantage, {"temperature": 0.0}, "temperature"),
    ]
    for kind, options, said in refused:
        with pytest.raises((UserError, TypeCheckError), match=said):
            kind(**options)
