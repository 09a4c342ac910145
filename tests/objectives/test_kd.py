"""Standard KD against torch's own losses."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_dot_score


def scores(rows: int = 5, candidates: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("kd", **options).terms(batch))


def test_default_is_hintons_at_temperature_2() -> None:
    student, teacher = scores()
    expected = 4 * cross_entropy(student / 2, (teacher / 2).softmax(-1))
    torch.testing.assert_close(loss_of(Batch(student=student, teacher=teacher)), expected)


def test_weights_temperature_and_labels() -> None:
    student, teacher = scores()
    labels = torch.tensor([0, 5, -100, 2, 2])
    expected = 0.7 * cross_entropy(student / 3, (teacher / 3).softmax(-1)) + 0.3 * cross_entropy(student, labels)
    options = {"temperature": 3.0, "t_squared": False, "soft_weight": 0.7, "label_weight": 0.3}
    found = loss_of(Batch(student=student, teacher=teacher, labels=labels), **options)
    torch.testing.assert_close(found, expected)


def test_progress_does_not_matter() -> None:
    student, teacher = scores()
    first, last = (loss_of(Batch(student=student, teacher=teacher, progress=progress)) for progress in (0.0, 1.0))
    assert torch.equal(first, last)


def test_labels_are_needed_for_a_label_weight() -> None:
    student, teacher = scores()
    with pytest.raises(ValueError, match="labels"):
        loss_of(Batch(student=student, teacher=teacher), label_weight=0.1)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"soft_weight": -1.0}, {"label_weight": -1.0}, {"soft_weight": 0.0, "label_weight": 0.0}],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^kd: .*{next(iter(options))}"):
        objectives.load("kd", **options)


def test_standardized_scores_differ_in_neither_scale_nor_shift() -> None:
    student, teacher = scores()

    def z(values: Tensor) -> Tensor:
        return (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True, correction=0)

    expected = 4 * cross_entropy(z(student) / 2, (z(teacher) / 2).softmax(-1))
    found = loss_of(Batch(student=student, teacher=teacher), standardize=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss_of(Batch(student=3 * student + 1, teacher=teacher / 2), standardize=True), expected)
    assert objectives.load("kd").head_options(0.5) is not None
    assert objectives.load("kd", standardize=True).head_options(0.5) is None


def test_on_a_list_it_is_sentence_transformers_distillation() -> None:
    # Their bi-encoder's scores are dot products: queries (1, 0) and documents (s, 0) have the scores s.
    student, teacher = scores()
    queries = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(5, 2)
    documents = [torch.stack([column, torch.zeros_like(column)], -1) for column in student.unbind(-1)]
    options = {"similarity_fct": pairwise_dot_score, "temperature": 3.0}
    peer = DistillKLDivLoss(torch.nn.Module(), **options).compute_loss_from_embeddings([queries, *documents], teacher)
    ours = loss_of(Batch(student=student, teacher=teacher), temperature=3.0)
    entropy = -9 * (torch.softmax(teacher / 3, -1) * torch.log_softmax(teacher / 3, -1)).sum(-1).mean()
    torch.testing.assert_close(ours - entropy, peer)  # a cross-entropy here, a divergence there
