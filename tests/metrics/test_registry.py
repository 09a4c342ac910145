"""The registry of metrics: every metric that is measured anywhere, its direction and its range."""

import subprocess
import sys

import pytest
import torch

from grkd.errors import UserError
from grkd.metrics import calibration, rank
from grkd.metrics.registry import METRICS, higher_is_better, in_order, metric_of

LOWER = {
    "nll_nats",
    "forward_kl_nats",
    "reverse_kl_nats",
    "soft_cross_entropy_nats",
    "ece",
    "expected_calibration_error",
    "brier",
}
COSTS = {"query_ms", "index_mb", "model_mb", "groups/no_order"}  # no method is better in them


def test_directions() -> None:
    assert {name for name, metric in METRICS.items() if not metric.direction} == COSTS
    assert {name for name in METRICS.keys() - COSTS if not higher_is_better(name)} == LOWER
    assert higher_is_better("group_accuracy/look-alikes")
    with pytest.raises(UserError, match="metric 'zest': it is not known whether higher is better"):
        higher_is_better("zest")


def test_every_measured_value_is_known_and_inside_its_range() -> None:
    torch.manual_seed(0)
    student, teacher = 5 * torch.randn(2, 40, 6)
    found = dict(rank.rank_fidelity(student, teacher, top_k=None))
    found["reverse_kl_nats"] = rank.reverse_kl(student, teacher)
    found["ndcg"] = rank.ndcg(student, teacher.softmax(-1))
    calibrated = calibration.calibration(student, torch.arange(40) % 6)
    found |= {name: calibrated[name] for name in ("nll_nats", "brier", "expected_calibration_error")}
    for name, values in found.items():
        metric = METRICS[name]
        assert metric.low is None or values.min() >= metric.low - 1e-6, name
        assert metric.high is None or values.max() <= metric.high + 1e-6, name


def test_bounds_are_moved_inside_the_range() -> None:
    assert metric_of("accuracy").clipped(-0.2, 1.3) == (0.0, 1.0)
    assert metric_of("kendall_tau").clipped(-1.2, 0.5) == (-1.0, 0.5)
    assert metric_of("nll_nats").clipped(-1.0, 99.0) == (0.0, 99.0)
    assert metric_of("zest").clipped(-5.0, 5.0) == (-5.0, 5.0)
    low, high = metric_of("accuracy").clipped(float("nan"), float("nan"))
    assert (low != low, high != high) == (True, True)


def test_known_metrics_come_first_and_in_the_registrys_order() -> None:
    names = ["zest", "brier", "group_accuracy/cats", "accuracy", "zest"]
    assert [metric.name for metric in in_order(names)] == ["accuracy", "brier", "zest", "group_accuracy/cats"]
    assert metric_of("group_accuracy/cats").label == "accuracy on cats"
    assert metric_of("some_loss_nats") == metric_of("some_loss_nats")
    assert (metric_of("some_loss_nats").label, metric_of("some_loss_nats").unit) == ("some loss", "nats")


def test_the_registry_needs_no_torch() -> None:
    code = "import sys, grkd.metrics.registry, grkd.benchmarks; grkd.benchmarks.all_benchmarks(); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "scipy", "numpy", "matplotlib"} & set(ended.stdout.split())


def test_scores_of_rankers_have_a_name_and_a_direction() -> None:
    found = metric_of("score/log_prob")
    assert (found.label, found.direction) == ("score by log_prob", 1)
    assert metric_of("groups/no_order").label == "groups without an order"
