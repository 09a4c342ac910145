"""A classifier's held-out figures: against scikit-learn, scipy and numpy, with intervals, whatever the chunks."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

from grkd.stages import classifier

EXAMPLES, CLASSES = 400, 6


def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a student and its teacher, and labels that the student knows half of the time."""
    generator = torch.Generator().manual_seed(5)
    teacher = 2 * torch.randn(EXAMPLES, CLASSES, generator=generator)
    student = teacher + torch.randn(EXAMPLES, CLASSES, generator=generator)
    labels = torch.where(
        torch.rand(EXAMPLES, generator=generator) < 0.4,
        student.argmax(-1),
        torch.randint(CLASSES, (EXAMPLES,), generator=generator),
    )
    return student, teacher, labels


def test_a_classifiers_figures_and_their_intervals() -> None:
    student, teacher, labels = made()
    found = classifier._metrics(student, teacher, labels)
    ours, theirs = (logits.double().softmax(-1).numpy() for logits in (student, teacher))
    right = (ours.argmax(-1) == labels.numpy()).astype(float)
    confidence = ours.max(-1)
    edges = np.linspace(0, 1, 16)
    bins = [(confidence > low) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    expected = {
        "accuracy": accuracy_score(labels, ours.argmax(-1)),
        "nll_nats": log_loss(labels, ours),
        "brier": ((ours - np.eye(CLASSES)[labels]) ** 2).sum(-1).mean(),
        "ece": sum(
            inside.mean() * abs(right[inside].mean() - confidence[inside].mean()) for inside in bins if any(inside)
        ),
        "reverse_kl_nats": stats.entropy(ours, theirs, axis=-1).mean(),
        "forward_kl_nats": stats.entropy(theirs, ours, axis=-1).mean(),
        "soft_cross_entropy_nats": -(theirs * np.log(ours)).sum(-1).mean(),
        "kendall_tau": np.mean([stats.kendalltau(*rows).statistic for rows in zip(ours, theirs, strict=True)]),
        "top1_agreement": (ours.argmax(-1) == theirs.argmax(-1)).mean(),
    }
    assert set(found) == {*expected, "pair_accuracy"}
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-5), name
        assert found[name]["low"] < found[name]["high"], name
    # The percentile interval of a share is the normal one, but for the resampling.
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / EXAMPLES)
    assert found["accuracy"]["low"] == pytest.approx(right.mean() - half, abs=0.006)
    assert found["accuracy"]["high"] == pytest.approx(right.mean() + half, abs=0.006)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classifier._metrics(*made())
    monkeypatch.setattr(classifier, "_ENTRIES", 7 * CLASSES)
    for name, interval in classifier._metrics(*made()).items():
        assert interval == pytest.approx(whole[name], rel=1e-6), name


def test_the_teacher_alone_has_no_figures_against_itself() -> None:
    _, teacher, labels = made()
    assert set(classifier._metrics(teacher, None, labels)) == {"accuracy", "nll_nats", "brier", "ece"}


def test_one_example_has_no_interval() -> None:
    student, teacher, labels = made()
    found = classifier._metrics(student[:1], teacher[:1], labels[:1])
    assert all(interval["value"] is not None for interval in found.values())
    assert all((interval["low"], interval["high"]) == (None, None) for interval in found.values())
