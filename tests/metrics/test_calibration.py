"""NDCG, reverse KL, calibration and look-alike classes against sklearn, torchmetrics, scipy and plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.special import log_softmax, rel_entr, softmax
from sklearn.metrics import ndcg_score
from torch import Tensor

from grkd.errors import UserError
from grkd.metrics import calibration, class_groups, rank
from grkd.metrics.rank_measures import calibration_interval


def logits(rows: int, classes: int, *, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@st.composite
def graded(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int | None]:
    """Scores and grades on coarse grids (ties are common), a mask that leaves two candidates or more, and a top_k."""
    candidates = draw(st.integers(2, 8))
    scores = torch.tensor(draw(st.lists(st.integers(-2, 2), min_size=candidates, max_size=candidates))).float()
    grades = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=candidates, max_size=candidates))).float()
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=candidates, max_size=candidates)))
    mask[:2] = True
    return scores[None], grades[None], mask[None], draw(st.sampled_from([None, 1, 2, 5]))


@given(graded())
def test_ndcg_is_sklearns(case: tuple[Tensor, Tensor, Tensor, int | None]) -> None:
    scores, grades, mask, top_k = case
    found = rank.ndcg(scores, grades, mask=mask, top_k=top_k).item()
    if not grades[mask].any():
        assert math.isnan(found)
        return
    assert found == pytest.approx(ndcg_score(grades[mask].numpy()[None], scores[mask].numpy()[None], k=top_k))


def test_ndcg_by_hand() -> None:
    # Order 3, 1, 2: 1 + 3 / log2(3) + 2 / 2 against the best, 3 + 2 / log2(3) + 1 / 2.
    found = rank.ndcg(torch.tensor([[0.5, 0.1, 0.9]]), torch.tensor([[3.0, 2.0, 1.0]]))
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert found.item() == pytest.approx((1 + 3 / math.log2(3) + 2 / 2) / best)
    perfect = rank.ndcg(torch.tensor([[9.0, 5.0, 1.0]]), torch.tensor([[3.0, 2.0, 1.0]]))
    assert perfect.item() == pytest.approx(1.0)


def test_ndcg_with_the_teachers_probabilities_over_many_candidates() -> None:
    student, teacher = logits(20, 50), logits(20, 50, seed=1)
    found = rank.ndcg(student, teacher.softmax(-1), top_k=10)
    expected = [
        ndcg_score(gain[None], score[None], k=10)
        for score, gain in zip(student.numpy(), teacher.softmax(-1).double().numpy(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_ndcg_refuses() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        rank.ndcg(torch.zeros(1, 2), torch.tensor([[-1.0, 2.0]]))
    with pytest.raises(UserError, match="top_k of NDCG must be 1 or more, got 0"):
        rank.ndcg(torch.zeros(1, 2), torch.ones(1, 2), top_k=0)
    with pytest.raises((ValueError, TypeCheckError)):
        rank.ndcg(torch.zeros(1, 2), torch.ones(1, 3))
    with pytest.raises(ValueError, match="mask has shape"):
        rank.ndcg(torch.zeros(3, 2), torch.ones(3, 2), mask=torch.ones(2, dtype=torch.bool))


def test_ndcg_ignores_what_is_masked() -> None:
    mask = torch.tensor([[True, True, False, True]])
    clean = rank.ndcg(torch.tensor([[1.0, 2.0, 0.0, 3.0]]), torch.tensor([[2.0, 1.0, 0.0, 0.5]]), mask=mask)
    dirty = rank.ndcg(torch.tensor([[1.0, 2.0, math.nan, 3.0]]), torch.tensor([[2.0, 1.0, -math.inf, 0.5]]), mask=mask)
    assert torch.equal(clean, dirty)


def test_reverse_kl_is_scipys() -> None:
    student, teacher = logits(6, 9), logits(6, 9, seed=1)
    p_student, p_teacher = (softmax(scores.double().numpy(), axis=-1) for scores in (student, teacher))
    assert rank.reverse_kl(student, teacher).tolist() == pytest.approx(rel_entr(p_student, p_teacher).sum(-1), rel=1e-5)
    forward = rel_entr(p_teacher, p_student).sum(-1)
    assert abs(rank.reverse_kl(student, teacher).numpy() - forward).min() > 1e-3


def test_calibration_by_its_formulas() -> None:
    scores = logits(40, 5)
    labels = torch.randint(5, (40,), generator=torch.Generator().manual_seed(2))
    found = calibration.calibration(scores, labels)
    probs = softmax(scores.double().numpy(), axis=-1)
    one_hot = np.eye(5)[labels.numpy()]
    assert found["brier"].tolist() == pytest.approx(((probs - one_hot) ** 2).sum(-1), rel=1e-5)
    expected = -log_softmax(scores.double().numpy(), axis=-1)[np.arange(40), labels.numpy()]
    assert found["nll_nats"].tolist() == pytest.approx(expected, rel=1e-5)
    assert found["correct"].tolist() == (probs.argmax(-1) == labels.numpy()).tolist()
    assert found["confidence"].tolist() == pytest.approx(probs.max(-1), rel=1e-5)
    assert 0 < found["correct"].mean() < 1


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_by_loops(bins: int) -> None:
    scores = logits(300, 4)
    labels = torch.randint(4, (300,), generator=torch.Generator().manual_seed(3))
    found = calibration.calibration(scores, labels, bins=bins)
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(found["confidence"].tolist()) if b / bins < c <= (b + 1) / bins]
        if inside:
            total += abs(sum((found["correct"][i] - found["confidence"][i]).item() for i in inside))
    assert found["expected_calibration_error"].item() == pytest.approx(total / 300)


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    scores = logits(500, 6)
    labels = torch.randint(6, (500,), generator=torch.Generator().manual_seed(4))
    expected = functional.multiclass_calibration_error(scores.softmax(-1), labels, num_classes=6, n_bins=bins)
    found = calibration.calibration(scores, labels, bins=bins)["expected_calibration_error"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, .5] holds .4 (wrong); (.5, 1] holds .6 (right), .8 (wrong), 1.0 (right).
    confidence, correct = torch.tensor([0.4, 0.6, 0.8, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    found = calibration.expected_calibration_error(confidence, correct, bins=2)
    assert found.item() == pytest.approx((0.4 + abs(2 - 2.4)) / 4)
    # A bin's upper edge belongs to it.
    edge = calibration.expected_calibration_error(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.5]), bins=2)
    assert edge.item() == pytest.approx((0.5 + 0.5) / 2)
    assert math.isnan(calibration.expected_calibration_error(torch.zeros(0), torch.zeros(0)).item())
    with pytest.raises(UserError, match="bins of the calibration error must be 1 or more, got 0"):
        calibration.expected_calibration_error(confidence, correct, bins=0)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    scores = logits(4000, 5)
    labels = torch.multinomial(scores.softmax(-1), 1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    assert calibration.calibration(scores, labels)["expected_calibration_error"] < 0.03
    assert calibration.calibration(3 * scores, labels)["expected_calibration_error"] > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_small_calibration_error_holds_it(seed: int) -> None:
    """Resamples of a calibrated model are noisier than the sample: every one has a larger error than it."""
    drawn = np.random.default_rng(seed)
    confidence = drawn.beta(20, 1, 500)
    found = calibration_interval(confidence, (drawn.random(500) < confidence) * 1.0, np.arange(500), seed=0)
    assert 0 <= found.low < found.mean < found.high
    assert found.low < 0.01  # its error is 0
    right = (drawn.random(500) < confidence - 0.3) * 1.0
    overconfident = calibration_interval(confidence, right, np.arange(500), seed=0)
    assert overconfident.low < 0.3 < overconfident.high


def test_look_alike_classes_by_hand() -> None:
    scores = torch.tensor(
        [
            [9.0, 1.0, 0.0, 0.0],  # label 0: right
            [0.0, 1.0, 9.0, 0.0],  # label 1: wrong, but right among 0 and 1
            [9.0, 1.0, 0.0, 0.0],  # label 1: wrong, taken for its look-alike
            [0.0, 0.0, 0.0, 9.0],  # label 3: in the other group, right
            [9.0, 0.0, 0.0, 1.0],  # label 2: in the other group, wrong in every way
        ]
    )
    labels = torch.tensor([0, 1, 1, 3, 2])
    found = class_groups.group_accuracy(scores, labels, class_groups={"dogs": [1, 0], "cats": [2, 3]})
    as_lists = {name: {key: value.tolist() for key, value in part.items()} for name, part in found.items()}
    assert as_lists == {
        "dogs": {"accuracy": [1, 0, 0], "within_group_accuracy": [1, 1, 0]},
        "cats": {"accuracy": [1, 0], "within_group_accuracy": [1, 0]},
    }


@pytest.mark.parametrize("classes", [[1], [], [0, 4], [-1, 2], [2, 2]])
def test_look_alike_classes_that_do_not_exist_are_a_user_error(classes: list[int]) -> None:
    with pytest.raises(UserError, match="class group 'dogs': needs two or more of the classes 0 to 3"):
        class_groups.group_accuracy(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), class_groups={"dogs": classes})
