"""Paired comparisons: the same numbers from shared draws, what is left out, and models known by their content."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from grkd.reports.evaluation_report import evaluation_report, paired_view
from grkd.reports.evaluations import Estimate, Evaluation
from grkd.reports.item_measures import item_measures
from grkd.reports.paired import compare

Row = dict[str, Any]
# Tokens have no grade.
TOKEN_MEASURES = [one for one in item_measures() if one.key.startswith("token_") and not one.key.endswith("grade")]


def evaluation(label: str, items: Sequence[Row], task: str = "rank", **more: Any) -> Evaluation:
    return Evaluation(task=task, model=label, label=label, items=tuple(items), path=Path(label), **more)


def rows_of(label: str, *, size: int = 500) -> list[Row]:
    """Responses of four to a prompt; some have no Kendall tau, and no two models lack it for the same ones."""
    generator = np.random.default_rng(ord(label))
    tokens = np.random.default_rng(0).integers(1, 9, size=size)
    values = {measure.key: generator.random(size) for measure in TOKEN_MEASURES}
    rows: list[Row] = []
    for n in range(size):
        row: Row = {"id": str(n), "group": f"p{n // 4}", "tokens": int(tokens[n])}
        rows.append(row | {name: float(column[n]) for name, column in values.items()})
    for n in range(ord(label) % 7, size, 50):
        rows[n]["token_kendall_tau"] = None
    return rows


def resampled(sums: NDArray[np.float64], sizes: NDArray[np.float64], *, resamples: int, seed: int) -> Any:
    """One figure at a time, its rows drawn for it alone."""
    drawn = np.random.default_rng(seed).integers(sums.size, size=(resamples, sums.size))
    if (sizes == sizes[0]).all():
        return sums[drawn].sum(-1) / (sums.size * sizes[0])
    return sums[drawn].sum(-1) / sizes[drawn].sum(-1)


def expected(a: Sequence[Row], b: Sequence[Row], value: str) -> tuple[float, float, float, float]:
    """Difference, low, high and p of b - a as paired_bootstrap_ratio defines them, by a resample of its own."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x[value] is not None and y[value] is not None]
    groups = list(dict.fromkeys(x["group"] for x, _ in both))
    sums, sizes = np.zeros((2, len(groups))), np.zeros(len(groups))
    for x, y in both:
        at = groups.index(x["group"])
        sizes[at] += x["tokens"]
        sums[:, at] += x["tokens"] * x[value], y["tokens"] * y[value]
    found = resampled(sums[1] - sums[0], sizes, resamples=10_000, seed=3)
    widening, freedom = math.sqrt(len(groups) / (len(groups) - 1)), len(groups) - 1
    tail = stats.norm.cdf(widening * stats.t.ppf(0.025, freedom))
    low, high = np.quantile(found, [tail, 1 - tail])
    rarer = int(min((found <= 0).sum(), (found >= 0).sum()))
    p = 2 * stats.t.cdf(stats.norm.ppf(min(0.5, (1 + rarer) / 10_001)) / widening, freedom)
    p = min(1.0, max(float(p), 2.0 ** (1 - len(groups))))
    return float(sums[1].sum() / sizes.sum() - sums[0].sum() / sizes.sum()), float(low), float(high), p


def test_shared_draws_give_the_same_numbers_and_are_drawn_once_a_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {label: rows_of(label) for label in "abc"}
    drawn = list[int]()
    new = np.random.default_rng

    def counted(seed: int) -> np.random.Generator:
        drawn.append(seed)
        return new(seed)

    monkeypatch.setattr(np.random, "default_rng", counted)
    paired = compare([evaluation(label, items) for label, items in rows.items()], seed=3)
    monkeypatch.undo()
    # Every prompt keeps a response with a tau, so all measures of a pair have the same number of prompts to draw.
    assert drawn == [3] * 3
    assert len(paired.comparisons) == 3 * len(TOKEN_MEASURES)
    for one in paired.comparisons:
        wanted = expected(rows[one.b], rows[one.a], one.measure.key)
        scaled = [number * one.measure.metric.scale for number in wanted[:3]]
        given = [one.difference, one.low, one.high, one.p]
        assert given == pytest.approx([*scaled, wanted[3]], rel=1e-9), one.measure.metric.label
    lacking = {one.items for one in paired.comparisons if one.measure.key == "token_kendall_tau"}
    assert lacking == {480}


def test_ids_are_matched_once_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    from grkd.reports import _comparable

    matched = list[str]()
    by_id = _comparable._by_id

    def counted(one: Evaluation) -> dict[str, Row]:
        matched.append(one.label)
        return by_id(one)

    monkeypatch.setattr(_comparable, "_by_id", counted)
    compare([evaluation(label, rows_of(label, size=20)) for label in "abc"])
    assert len(matched) <= 2 * 3


def five(labels: str) -> list[Evaluation]:
    generator = np.random.default_rng(1)
    items = {label: (generator.random(40) < 0.2 * n).astype(int).tolist() for n, label in enumerate(labels)}
    return [
        evaluation(label, [{"id": str(n), "correct": value} for n, value in enumerate(found)], "gsm8k")
        for label, found in items.items()
    ]


def test_nothing_is_said_to_be_left_out_where_nothing_is() -> None:
    """The teacher is a fifth label, but four are compared, every pair of them."""
    evaluations = [*five("abcd"), evaluation("teacher", five("t")[0].items, "gsm8k")]
    paired = compare(evaluations, teacher="teacher")
    shown = {frozenset((one.a, one.b)) for one in paired.comparisons}
    assert shown == {frozenset(pair) for pair in itertools.combinations("abcd", 2)}
    assert not any("only comparisons with the best" in note for note in paired.notes)
    assert any("only comparisons with the best" in note for note in compare(five("abcde")).notes)


def test_a_benchmark_without_a_figure_takes_no_comparison_away() -> None:
    runs = [evaluation(label, rows_of(label, size=20)) for label in "ab"]
    for metrics in ({}, {"score": Estimate()}):
        found = evaluation_report([*runs, Evaluation(task="mt_bench", model="a", label="a", metrics=metrics)])
        assert not found.table.columns
        assert len(found.paired.comparisons) == len(TOKEN_MEASURES)
    found = evaluation_report(
        [*runs, Evaluation(task="mt_bench", model="a", label="a", metrics={"score": Estimate(value=0.0)})]
    )
    assert found.table.columns  # a value of zero is one


def test_a_teacher_is_known_by_its_content_and_named_by_its_path() -> None:
    def trained(label: str, name: str, identity: str) -> Evaluation:
        return evaluation(label, rows_of(label, size=20), conditions={"teacher": {"name": name, "identity": identity}})

    moved = compare([trained("a", "runs/a/teacher", "1234567890"), trained("b", "runs/b/teacher", "1234567890")])
    assert moved.comparisons
    anew = compare([trained("a", "runs/teacher", "1234567890"), trained("b", "runs/teacher", "abcdefghij")])
    assert not anew.comparisons
    assert (
        "rank: a and b were evaluated with a different teacher (runs/teacher [12345678] and runs/teacher [abcdefgh]); "
        "not compared." in anew.notes
    )


def test_the_page_says_briefly_that_nothing_is_shown() -> None:
    view = paired_view(compare([evaluation(label, rows_of("a", size=20)) for label in "ab"]))
    assert view is not None
    assert {row["cells"][-1] for row in view["rows"]} == {"none shown"}
