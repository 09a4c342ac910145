"""The method on tiers: ListMLE without ties, sentence-transformers' on the same tensors, what rows count."""

import pytest
import torch

from grkd import objectives
from grkd.objectives import Batch
from tests.objectives._lists import a_list, peer_loss


def test_without_ties_it_is_list_mle_here_and_in_sentence_transformers() -> None:
    batch = a_list(ties=False)
    (term,) = objectives.load("plackett_luce").terms(batch)
    (list_mle,) = objectives.load("pld", weight="uniform", label_first=False).terms(batch)
    torch.testing.assert_close(term.rows, list_mle.rows, rtol=1e-5, atol=1e-5)
    peer = peer_loss("ListMLELoss", batch.student, batch.teacher, respect_input_order=False)
    torch.testing.assert_close(term.rows[0], peer, rtol=1e-5, atol=1e-5)


def test_tau_divides_the_student_and_a_tied_list_does_not_count() -> None:
    batch = a_list()
    (halved,) = objectives.load("plackett_luce", tau=2.0).terms(batch)
    (plain,) = objectives.load("plackett_luce").terms(Batch(student=batch.student / 2, teacher=batch.teacher))
    torch.testing.assert_close(halved.rows, plain.rows)
    (tied,) = objectives.load("plackett_luce").terms(Batch(student=batch.student, teacher=torch.ones(1, 7)))
    assert tied.counted.tolist() == [False]
    assert tied.rows.tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("plackett_luce", {}, "tiers"),
        ("ranknet", {}, "tiers"),
        ("lambdaloss", {}, "tiers"),
        ("lambdaloss", {"grades": "scores"}, "scores"),
        ("grkd", {"preset": "lists"}, "tiers"),
        ("grkd", {"preset": "lists", "ranking.0.target": "soft"}, "scores"),
        ("grkd", {}, "scores"),  # soft targets beside the pairs
        ("pld", {"weight": "uniform", "label_first": False}, "order"),
        ("pld", {"label_first": False}, "scores"),
        ("kd", {}, "scores"),
        ("margin_mse", {}, "scores"),
    ],
)
def test_what_the_teacher_must_give_at_least(name: str, options: dict[str, object], least: str) -> None:
    assert objectives.load(name, **options).least_teacher == least
