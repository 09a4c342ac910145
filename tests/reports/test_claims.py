"""What a report may say: no claim below three seeds, no interval beyond the metric's range, no best among the worse."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd.metrics.registry import METRICS, metric_of
from grkd.reports import markdown_table, read_run
from grkd.reports.figures import draw
from grkd.reports.outcome import outcome
from grkd.reports.seeds import interval_over_seeds
from grkd.reports.summary import summarise
from grkd.reports.verdict import verdict

MakeRun = Callable[..., Path]


def rows_of(values: dict[str, list[float]], metric: str = "accuracy") -> list[dict[str, Any]]:
    return [
        {"method": method, "seed": None if method in ("before", "teacher") else seed, "metric": metric, "value": value}
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]


def two_seeds(make_run: MakeRun) -> Path:
    # Paired, a - b is .300, .300001: p = 2e-6.
    return make_run(rows=rows_of({"a": [0.60, 0.490001], "b": [0.30, 0.19]}))


def test_two_seeds_support_no_claim(make_run: MakeRun) -> None:
    run = read_run(two_seeds(make_run))
    found = summarise(run).verdicts["accuracy"]
    assert (found.best, found.better_than, found.tested) == ("a", (), False)
    assert not any(cell.differs for line in summarise(run).lines for cell in line.cells.values())
    text = markdown_table(run) + outcome(run, summarise(run))
    assert "Fewer than three seeds: no claim that a method is better than another." in text
    assert "✓" not in text
    assert "a is better than" not in text
    assert "significant" not in text
    assert "With fewer than three seeds, none of this shows that one method is better than another." in text


def test_three_seeds_support_one(make_run: MakeRun) -> None:
    run = read_run(make_run(rows=rows_of({"a": [0.60, 0.490001, 0.55], "b": [0.30, 0.19, 0.25001]})))
    assert summarise(run).verdicts["accuracy"].better_than == ("b",)


def test_an_interval_over_seeds_stays_inside_the_metrics_range(make_run: MakeRun) -> None:
    # 12.71 * .0778 / sqrt(2) = .699: .545 -+ .699 is cut at 0 and 1.
    run = read_run(two_seeds(make_run))
    cells = {line.label: line.cells["accuracy"] for line in summarise(run).lines}
    assert cells["a"].interval == (0.0, 1.0)
    text = markdown_table(run)
    assert "54.50 [0.00, 100.00]" in text
    assert "± " not in re.sub("±: half-width.*", "", text)
    assert "[low, high]: the same interval, cut at the limits of the metric's range." in text


@given(st.sampled_from(sorted(METRICS)), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_every_metrics_interval_does(name: str, shares: list[float]) -> None:
    metric = metric_of(name)
    low, high = metric.low, metric.high
    start, end = 0.0 if low is None else low, 3.0 if high is None else high
    values = [start + (end - start) * one for one in shares]
    found = interval_over_seeds(values, metric)
    assert found is not None
    mean = sum(values) / len(values)
    assert found[0] - 1e-9 <= mean <= found[1] + 1e-9
    assert low is None or found[0] >= low
    assert high is None or found[1] <= high


def test_axes_stay_inside_it_too(make_run: MakeRun) -> None:
    (drawing,) = (one for one in draw(read_run(two_seeds(make_run))) if one.section == "results")
    ticks = [float(text.replace("\u2212", "-")) for text in re.findall(r">([\u2212\d.]+)</text>", drawing.svg)]
    assert len(ticks) >= 3
    assert min(ticks) >= 0
    assert max(ticks) <= 100


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("accuracy", {"before": [0.75], "kd": [0.50, 0.52, 0.51], "grkd": [0.45, 0.46, 0.44]}),
        ("accuracy", {"before": [0.51], "kd": [0.50, 0.52, 0.51], "grkd": [0.45, 0.46, 0.44]}),  # level with it
        ("nll_nats", {"before": [0.75], "kd": [0.80, 0.82, 0.81], "grkd": [0.95, 0.96, 0.94]}),
    ],
)
def test_nothing_is_best_that_is_no_better_than_the_student_before(
    make_run: MakeRun, metric: str, values: dict[str, list[float]]
) -> None:
    run = read_run(make_run(task="language_model", rows=rows_of(values, metric)))
    assert not any(cell.best for line in summarise(run).lines for cell in line.cells.values())
    text = markdown_table(run)
    assert "**" not in text
    label = metric_of(metric).label
    assert f"No method is better than the student before distillation: {label}." in text
    assert "highest" not in outcome(run, summarise(run))


@pytest.mark.parametrize("metric", ["query_ms", "index_mb", "model_mb"])
def test_costs_have_no_verdict(make_run: MakeRun, metric: str) -> None:
    values = {"before": [2.0], "kd": [2.0, 2.0, 2.0], "grkd": [1.0, 1.1, 1.2]}
    run = read_run(make_run(task="rank", rows=rows_of(values, metric)))
    summary = summarise(run)
    text = markdown_table(run)
    assert "No method is better" not in text
    assert "**" not in text
    assert verdict(summary) is None
    assert "better" not in outcome(run, summary)


def test_the_best_is_marked_where_it_is_better(make_run: MakeRun) -> None:
    run = read_run(make_run(task="language_model", rows=rows_of({"before": [0.4], "kd": [0.5], "grkd": [0.45]})))
    assert [line.label for line in summarise(run).lines if line.cells["accuracy"].best] == ["kd"]
