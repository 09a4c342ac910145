"""The search on the page: shares of grids, picks at an edge, and validation against the held-out data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grkd.reports import read_run, write_page
from grkd.reports.search import search_view
from grkd.reports.summary import summarise

MakeRun = Callable[..., Path]
METHODS = ("ce", "kd", "dkd", "grkd")


def trial(method: str, value: float | None, rate: float, **more: Any) -> dict[str, Any]:
    settings = {"learning_rate": rate}
    fixed = {"metric": "accuracy", "outcome": "done", "grid": 4, "at_edge": []}
    return {"method": method, "settings": settings, "value": value, **fixed, **more}


def folder_with(make_run: MakeRun, trials: list[dict[str, Any]], held_out: tuple[float, ...]) -> Path:
    rows = [
        {"method": method, "seed": 0, "metric": "accuracy", "value": value}
        for method, value in zip(METHODS, held_out, strict=True)
    ]
    folder = make_run(rows=rows)
    (folder / "search.json").write_text(json.dumps(trials))
    return folder


def test_shares_edges_and_correlation_by_hand(make_run: MakeRun, tmp_path: Path) -> None:
    trials = [
        trial("ce", 0.5, 0.1, grid=2),
        trial("ce", 0.4, 0.2, grid=2),
        trial("kd", 0.6, 0.1, at_edge=["learning_rate"]),
        trial("dkd", 0.7, 0.3, metrics={"accuracy": 0.7}),
        trial("dkd", None, 0.4, outcome="failed: x"),
        trial("grkd", 0.8, 0.2),
    ]
    # Orders 1 2 3 4 and 1 3 2 4: rho = 1 - 6 * 2 / (4 * 15) = .8
    folder = folder_with(make_run, trials, (0.1, 0.3, 0.2, 0.4))
    run = read_run(folder)
    found = search_view(run, summarise(run))
    assert found is not None
    assert [(row["method"], row["trials"], row["value"], row["edge"]) for row in found["rows"]] == [
        ("ce", "2 (100 %)", "50.00", "none"),
        ("kd", "1 (25 %)", "60.00", "learning_rate"),
        ("dkd", "2 (50 %)", "70.00", "none"),
        ("grkd", "1 (25 %)", "80.00", "none"),
    ]
    assert found["rows"][0]["settings"] == "learning_rate 0.1"
    assert any("learning_rate (1)" in note for note in found["notes"])
    assert found["notes"][-1].endswith("accuracy over 4 methods: 0.800.")
    write_page([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h3>Search</h3>" in page
    assert "1 (25 %)" in page


def test_damaged_searches_and_none(make_run: MakeRun) -> None:
    folder = folder_with(make_run, [trial("kd", 0.5, 0.1)], (0.1, 0.3, 0.2, 0.4))
    run = read_run(folder)
    found = search_view(run, summarise(run))
    assert found is not None
    assert not any("correlation" in note for note in found["notes"])  # one method has no rank
    for damaged in ("{", "3", "[3]", '[{"method": 3}]', '[{"method": "kd", "settings": []}]', "[" * 5000):
        (folder / "search.json").write_text(damaged)
        problem = search_view(run, summarise(run))
        assert problem is not None
        assert "damaged" in problem["problem"]
    (folder / "search.json").write_text("[]")
    assert search_view(run, summarise(run)) is None
    (folder / "search.json").unlink()
    assert search_view(run, summarise(run)) is None


@pytest.mark.parametrize("value", [float("nan"), None])
def test_trials_without_a_value(make_run: MakeRun, value: float | None) -> None:
    folder = folder_with(make_run, [trial("kd", value, 0.1)], (0.1, 0.3, 0.2, 0.4))
    run = read_run(folder)
    found = search_view(run, summarise(run))
    assert found is not None
    assert found["rows"][0]["value"] == found["rows"][0]["settings"] == "\u2013"
