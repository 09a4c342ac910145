"""MarginMSE against plain loops and sentence-transformers."""

import warnings

import pytest
import torch

from grkd import objectives
from tests.objectives._lists import a_list

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss


@pytest.mark.parametrize("pairs", ["best", "all"])
def test_equals_plain_loops(pairs: str) -> None:
    batch = a_list()
    mask = torch.tensor([[True] * 5 + [False] * 2])
    (term,) = objectives.load("margin_mse", pairs=pairs, scale=0.5).terms(
        objectives.Batch(student=batch.student, teacher=batch.teacher, mask=mask)
    )
    s, t = batch.student[0].tolist(), batch.teacher[0].tolist()
    best = max(range(5), key=lambda i: t[i])
    chosen = [(best, j) for j in range(5) if j != best] if pairs == "best" else []
    chosen = chosen or [(i, j) for i in range(5) for j in range(i)]
    expected = sum((s[i] - s[j] - 0.5 * (t[i] - t[j])) ** 2 for i, j in chosen) / len(chosen)
    assert term.rows.item() == pytest.approx(expected, rel=1e-5)


def test_equals_sentence_transformers() -> None:
    # Their bi-encoder's scores are dot products: a query (1, 0) and documents (s, 0) have the scores s.
    batch = a_list(ties=False)
    (term,) = objectives.load("margin_mse").terms(batch)
    order = [int(batch.teacher.argmax()), *(j for j in range(7) if j != int(batch.teacher.argmax()))]
    embeddings = [torch.tensor([[1.0, 0.0]])] + [torch.stack([batch.student[:, j], torch.zeros(1)], -1) for j in order]
    margins = torch.stack([batch.teacher[:, order[0]] - batch.teacher[:, j] for j in order[1:]], -1)
    peer = MarginMSELoss(torch.nn.Module()).compute_loss_from_embeddings(embeddings, margins)
    torch.testing.assert_close(term.rows[0], peer)
