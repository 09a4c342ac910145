"""What grkd compare measures, against scikit-learn, scipy and plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import log_loss, roc_auc_score, top_k_accuracy_score

from grkd.classify.metrics import Yardstick, auroc, figures

CLASSES, EXAMPLES = 8, 60


@pytest.fixture
def scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    logits = torch.randn(EXAMPLES, CLASSES, generator=generator) + 2 * torch.eye(CLASSES)[labels]
    return {
        "logits": logits,
        "labels": labels,
        "teacher": torch.randn(EXAMPLES, CLASSES, generator=generator),
        "votes": torch.randint(4, (EXAMPLES, CLASSES), generator=generator),
        "outside": torch.randn(25, CLASSES, generator=generator),
    }


def test_figures_are_those_of_other_implementations(scores: dict[str, torch.Tensor]) -> None:
    yardstick = Yardstick(
        labels=scores["labels"], teacher=scores["teacher"], votes=scores["votes"], groups={"a": [0, 1], "b": [3, 4, 5]}
    )
    found = {
        name: entry["value"] for name, entry in figures(scores["logits"], yardstick, outside=scores["outside"]).items()
    }
    logits, labels = scores["logits"].double().numpy(), scores["labels"].numpy()
    exponentials = np.exp(logits)
    chances = exponentials / exponentials.sum(-1, keepdims=True)
    every = np.arange(CLASSES)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=every))
    assert found["nll_nats"] == pytest.approx(log_loss(labels, chances, labels=every))
    assert found["brier"] == pytest.approx(((chances - np.eye(CLASSES)[labels]) ** 2).sum(-1).mean())
    for name, against in (("kendall_tau", scores["teacher"]), ("votes_kendall_tau", scores["votes"])):
        taus = [kendalltau(row, other).statistic for row, other in zip(logits, against.numpy(), strict=True)]
        assert found[name] == pytest.approx(np.nanmean(taus)), name
    is_inside = [1] * EXAMPLES + [0] * 25
    outside = scores["outside"].double()
    tops = np.concatenate([chances.max(-1), outside.softmax(-1).amax(-1).numpy()])
    assert found["outside_auroc"] == pytest.approx(roc_auc_score(is_inside, tops))
    assert found["outside_auroc_logit"] == pytest.approx(
        roc_auc_score(is_inside, np.concatenate([logits.max(-1), outside.amax(-1).numpy()]))
    )
    right = [
        max(group, key=lambda one: logits[row, one]) == label
        for group in ([0, 1], [3, 4, 5])
        for row, label in enumerate(labels)
        if label in group
    ]
    assert found["within_group_accuracy/look-alikes"] == pytest.approx(np.mean(right))


def test_parts_of_the_data_give_the_mean_over_all(
    scores: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    yardstick = Yardstick(labels=scores["labels"], teacher=scores["teacher"], votes=scores["votes"])
    whole = figures(scores["logits"], yardstick)
    monkeypatch.setattr("grkd.classify.metrics._ENTRIES", 7 * CLASSES)
    for name, entry in figures(scores["logits"], yardstick).items():
        assert entry["value"] == pytest.approx(whole[name]["value"]), name


def test_scores_that_are_not_finite_have_no_figures(scores: dict[str, torch.Tensor]) -> None:
    scores["logits"][3, 2] = math.nan
    found = figures(scores["logits"], Yardstick(labels=scores["labels"]))
    assert {entry["value"] for entry in found.values()} == {None}


def test_auroc_with_ties_by_hand() -> None:
    assert auroc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])) == (0.5 + 1 + 1 + 1) / 4
    assert math.isnan(auroc(torch.tensor([]), torch.tensor([1.0])))


def test_few_classes_have_no_top_five(scores: dict[str, torch.Tensor]) -> None:
    assert "top5_accuracy" not in figures(scores["logits"][:, :5], Yardstick(labels=scores["labels"].clamp_max(4)))
