"""What is measured of a classifier: against scikit-learn, scipy and plain loops, whatever the chunks."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score, top_k_accuracy_score

from grkd import cli
from grkd.classify import metrics as classifier
from grkd.classify.metrics import Targets, auroc, classifier_metrics

EXAMPLES, CLASSES = 400, 6
FEW, MANY = 60, 8


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


def measured(
    logits: torch.Tensor, teacher: torch.Tensor | None, labels: torch.Tensor, groups: dict[str, list[int]] | None = None
) -> classifier.Metrics:
    return classifier_metrics(logits, Targets(labels=labels, teacher=teacher, groups=groups or {}))


def test_metrics_and_their_intervals() -> None:
    student, teacher, labels = made()
    found = measured(student, teacher, labels)
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
    assert set(found) == {*expected, "pair_accuracy", "top5_accuracy"}
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-5), name
        assert found[name]["low"] < found[name]["high"], name
    # The percentile interval of a share is the normal one, but for the resampling.
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / EXAMPLES)
    assert found["accuracy"]["low"] == pytest.approx(right.mean() - half, abs=0.006)
    assert found["accuracy"]["high"] == pytest.approx(right.mean() + half, abs=0.006)


GROUPS = {"pets": [4, 1], "rest": [0, 2, 3, 5]}


def test_accuracy_inside_groups_of_classes_by_plain_loops() -> None:
    student, teacher, labels = made()
    found = measured(student, teacher, labels, GROUPS)
    for name, classes in GROUPS.items():
        rows = [
            (scores, label) for scores, label in zip(student.tolist(), labels.tolist(), strict=True) if label in classes
        ]
        over_all = [max(range(CLASSES), key=lambda k, s=scores: s[k]) == label for scores, label in rows]
        inside = [max(classes, key=lambda k, s=scores: s[k]) == label for scores, label in rows]
        for metric, values in ((f"group_accuracy/{name}", over_all), (f"within_group_accuracy/{name}", inside)):
            share, size = sum(values) / len(values), len(values)
            half = 1.96 * math.sqrt(share * (1 - share) / size)
            assert found[metric]["value"] == pytest.approx(share)
            assert found[metric]["low"] == pytest.approx(share - half, abs=0.02)
            assert found[metric]["high"] == pytest.approx(share + half, abs=0.02)
        assert found[f"within_group_accuracy/{name}"]["value"] > found[f"group_accuracy/{name}"]["value"]
    alone = measured(teacher, None, labels, {"pets": [4, 1]})
    assert {"group_accuracy/pets", "within_group_accuracy/pets"} < set(alone)


def test_a_group_without_an_example_has_no_accuracy() -> None:
    student, teacher, labels = made()
    found = measured(student, teacher, labels.where(labels < 4, 0), {"none": [4, 5]})
    assert found["group_accuracy/none"] == {"value": None, "low": None, "high": None}


def recipe_with(tmp_path: Path, groups: str) -> Path:
    path = tmp_path / "digits.yaml"
    path.write_text(
        f"""
task: classifier
output: {tmp_path / "run"}
device: cpu
data: {{dataset: digits, limit: 200}}
teacher: {{model: mlp, options: {{hidden: [16]}}, training: {{epochs: 6, batch_size: 32, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [4]}}}}
methods: [kd]
training: {{epochs: 4, batch_size: 32, learning_rate: 1e-2}}
evaluation: {{groups: {groups}}}
"""
    )
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_recipes_groups_reach_the_results_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(recipe_with(tmp_path, '{round: ["3", "8", "9"], straight: ["1", "7"]}'))]) == 0
    out = " ".join(capsys.readouterr().out.replace("\u00a0", " ").split())
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    by_metric = {(row["method"], row["metric"]): row for row in rows}
    for label in ("kd", "teacher"):
        for group in ("round", "straight"):
            on, within = (by_metric[label, f"{kind}/{group}"] for kind in ("group_accuracy", "within_group_accuracy"))
            assert 0 <= on["value"] <= within["value"] <= 1
            assert within["low"] <= within["value"] <= within["high"]
    for words in (
        "accuracy on round (%)",
        "accuracy within straight (%)",
        "with only the group's classes to choose from",
    ):
        assert words in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "accuracy within round" in page
    # Other groups: evaluated again, not trained again.
    stamp = (tmp_path / "run" / "train" / "kd-seed0" / "manifest.json").stat().st_mtime_ns
    assert cli.main(["run", str(recipe_with(tmp_path, '{round: ["3", "8"]}'))]) == 0
    metrics = json.loads((tmp_path / "run" / "evaluate" / "kd-seed0" / "metrics.json").read_text())
    assert "group_accuracy/straight" not in metrics
    assert metrics["group_accuracy/round"] != by_metric["kd", "group_accuracy/round"]
    assert (tmp_path / "run" / "train" / "kd-seed0" / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ('{round: ["3", "80"]}', "evaluation.groups.round: no class '80' in the data; did you mean '8'?"),
        ('{round: ["3", "x"]}', "evaluation.groups.round: no class 'x' in the data; there are 0, 1, 2, 3, 4, ..."),
        ('{round: ["3", "3"]}', "evaluation.groups.round: expected two or more different classes, got ['3', '3']"),
        ("{round: []}", "evaluation.groups.round: expected two or more different classes, got []"),
        ("{round: [3, 8]}", "evaluation.groups.round.0: expected text, got 3"),
        ("[a]", "evaluation.groups: expected a mapping"),
    ],
)
def test_mistakes_in_groups_are_found_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: str, message: str
) -> None:
    assert cli.main(["run", str(recipe_with(tmp_path, groups))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(*made(), GROUPS)
    monkeypatch.setattr(classifier, "_ENTRIES", 7 * CLASSES)
    for name, interval in measured(*made(), GROUPS).items():
        assert interval == pytest.approx(whole[name], rel=1e-6), name


def test_the_teacher_alone_is_not_measured_against_itself() -> None:
    _, teacher, labels = made()
    assert set(measured(teacher, None, labels)) == {"accuracy", "top5_accuracy", "nll_nats", "brier", "ece"}


def test_one_example_has_no_interval() -> None:
    student, teacher, labels = made()
    found = measured(student[:1], teacher[:1], labels[:1])
    assert all(interval["value"] is not None for interval in found.values())
    assert all((interval["low"], interval["high"]) == (None, None) for interval in found.values())


@pytest.fixture
def scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(MANY, (FEW,), generator=generator)
    logits = torch.randn(FEW, MANY, generator=generator) + 2 * torch.eye(MANY)[labels]
    return {
        "logits": logits,
        "labels": labels,
        "teacher": torch.randn(FEW, MANY, generator=generator),
        "votes": torch.randint(4, (FEW, MANY), generator=generator),
        "outside": torch.randn(25, MANY, generator=generator),
    }


def test_votes_look_alikes_and_inputs_of_no_class(scores: dict[str, torch.Tensor]) -> None:
    targets = Targets(
        labels=scores["labels"],
        teacher=scores["teacher"],
        votes=scores["votes"],
        look_alikes={"a": [0, 1], "b": [3, 4, 5]},
    )
    found = {
        name: entry["value"]
        for name, entry in classifier_metrics(scores["logits"], targets, outside=scores["outside"]).items()
    }
    logits, labels = scores["logits"].double().numpy(), scores["labels"].numpy()
    exponentials = np.exp(logits)
    chances = exponentials / exponentials.sum(-1, keepdims=True)
    every = np.arange(MANY)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=every))
    assert found["nll_nats"] == pytest.approx(log_loss(labels, chances, labels=every))
    assert found["brier"] == pytest.approx(((chances - np.eye(MANY)[labels]) ** 2).sum(-1).mean())
    for name, against in (("kendall_tau", scores["teacher"]), ("votes_kendall_tau", scores["votes"])):
        taus = [kendalltau(row, other).statistic for row, other in zip(logits, against.numpy(), strict=True)]
        assert found[name] == pytest.approx(np.nanmean(taus)), name
    is_inside = [1] * FEW + [0] * 25
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
    targets = Targets(labels=scores["labels"], teacher=scores["teacher"], votes=scores["votes"])
    whole = classifier_metrics(scores["logits"], targets)
    monkeypatch.setattr("grkd.classify.metrics._ENTRIES", 7 * MANY)
    for name, entry in classifier_metrics(scores["logits"], targets).items():
        assert entry["value"] == pytest.approx(whole[name]["value"]), name


def test_scores_that_are_not_finite_have_no_metrics(scores: dict[str, torch.Tensor]) -> None:
    scores["logits"][3, 2] = math.nan
    found = classifier_metrics(scores["logits"], Targets(labels=scores["labels"]))
    assert {entry["value"] for entry in found.values()} == {None}


def test_auroc_with_ties_by_hand() -> None:
    assert math.isnan(auroc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])))
    assert auroc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])) == (0.5 + 1 + 1 + 1) / 4
    assert math.isnan(auroc(torch.tensor([]), torch.tensor([1.0])))


def test_few_classes_have_no_top_five(scores: dict[str, torch.Tensor]) -> None:
    assert "top5_accuracy" not in classifier_metrics(
        scores["logits"][:, :5], Targets(labels=scores["labels"].clamp_max(4))
    )


def test_without_intervals_the_values_are_the_same(scores: dict[str, torch.Tensor]) -> None:
    targets = Targets(labels=scores["labels"], teacher=scores["teacher"], groups={"a": [0, 1]})
    slow, fast = (classifier_metrics(scores["logits"], targets, intervals=each) for each in (True, False))
    assert list(slow) == list(fast)
    for name, found in fast.items():
        assert found["value"] == pytest.approx(slow[name]["value"]), name
        assert (found["low"], found["high"]) == (None, None)
