"""RankNet against plain loops and sentence-transformers."""

import math

import pytest
import torch

from grkd import objectives
from tests.objectives._lists import a_list, peer_loss


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_equals_plain_loops_and_sentence_transformers(sigma: float) -> None:
    batch = a_list()
    (term,) = objectives.load("ranknet", sigma=sigma).terms(batch)
    s, t = batch.student[0].tolist(), batch.teacher[0].tolist()
    pairs = [(i, j) for i in range(7) for j in range(7) if t[i] > t[j]]
    expected = sum(math.log1p(math.exp(-sigma * (s[i] - s[j]))) for i, j in pairs)
    assert term.rows.item() == pytest.approx(expected, rel=1e-5)
    # The peer's mean over pairs, in nats.
    labels = batch.teacher - batch.teacher.min()
    peer = peer_loss("RankNetLoss", batch.student, labels, sigma=sigma, reduction_log="natural")
    torch.testing.assert_close(term.rows[0] / len(pairs), peer)


def test_the_pairs_of_grkd_for_lists_are_its_mean() -> None:
    batch = a_list()
    ours = objectives.load("grkd", preset="lists").terms(batch)[0]
    (ranknet,) = objectives.load("ranknet").terms(batch)
    pairs = int((batch.teacher.unsqueeze(-1) > batch.teacher.unsqueeze(-2)).sum())
    torch.testing.assert_close(ours.rows * pairs, ranknet.rows)
