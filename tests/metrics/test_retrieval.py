"""Retrieval measures by hand."""

import math

import numpy as np
import pytest

from grkd.metrics.retrieval import retrieval_measures


def test_by_hand() -> None:
    ranked = {"a": {"x": 0.5, "y": 0.7, "z": 0.1}, "b": {"x": 1.0}, "c": {"x": 1.0}}
    judged = {"a": {"x": 3.0, "z": 1.0}, "b": {"x": 0.0}, "c": {"w": 1.0}}
    found = retrieval_measures(ranked, judged, over="list")
    # y, x, z: gains 0, 3, 1; the best order has 3, 1.
    reached = 3 / math.log2(3) + 1 / math.log2(4)
    assert found["list_ndcg10"][0] == pytest.approx(reached / (3 + 1 / math.log2(3)))
    assert found["list_mrr"][0] == pytest.approx(1 / 2)
    assert found["list_map"][0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["list_recall10"][0] == 1
    assert np.isnan(found["list_mrr"][1])  # nothing is relevant
    assert found["list_mrr"][2] == 0  # the relevant document is not ranked
    assert "corpus_recall100" in retrieval_measures(ranked, judged, over="corpus")
