"""Paired tests over queries of a ranker's run, against a computation by hand on its files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from grkd import cli
from grkd.files import write_json
from grkd.reports import read_run, write_page
from grkd.reports.queries import compare_queries, query_values
from grkd.statistics import paired_bootstrap


def a_run(folder: Path) -> dict[str, np.ndarray]:
    """Two methods of two seeds over 40 held-out queries; one value is missing."""
    generator = np.random.default_rng(0)
    values = {name: generator.uniform(size=40) / 2 for name in ("before", "kd-seed0", "kd-seed1")}
    values |= {f"grkd-seed{seed}": values[f"kd-seed{seed}"] + generator.uniform(0, 0.2, 40) for seed in (0, 1)}
    for name, column in values.items():
        column[7] = np.nan
        (folder / "evaluate" / name).mkdir(parents=True)
        np.savez(folder / "evaluate" / name / "queries.npz", list_ndcg10=column)
    write_json(folder / "evaluate" / "before" / "queries.json", [f"query {n}" for n in range(40)])
    status = {name: "done" for name in values if name != "before"}
    rows = [
        {"method": name.split("-")[0], "seed": None if name == "before" else int(name[-1]), "metric": "list_ndcg10",
         "value": float(np.nanmean(column))}
        for name, column in values.items()
    ]  # fmt: skip
    write_json(folder / "results.json", {"title": "A ranker", "task": "rank", "status": status, "rows": rows})
    return values


def test_methods_are_compared_query_by_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = a_run(tmp_path / "run")
    run = read_run(tmp_path / "run")
    found = {(one.a, one.b): one for one in compare_queries(run).comparisons}
    assert {frozenset(pair) for pair in found} == {
        frozenset(pair) for pair in (("kd", "before"), ("grkd", "before"), ("grkd", "kd"))
    }
    means = {name: (values[f"{name}-seed0"] + values[f"{name}-seed1"]) / 2 for name in ("kd", "grkd")}
    np.testing.assert_allclose(query_values(run, "list_ndcg10")["kd"], means["kd"])
    known = ~np.isnan(means["kd"])
    expected = paired_bootstrap(means["grkd"][known], means["kd"][known])
    one = found["grkd", "kd"] if ("grkd", "kd") in found else found["kd", "grkd"]
    scale = one.measure.metric.scale
    assert one.items == 39
    assert one.ahead == "grkd"
    assert abs(one.difference) == pytest.approx(scale * expected.difference)
    assert sorted(map(abs, (one.low, one.high))) == pytest.approx(sorted([scale * expected.low, scale * expected.high]))

    write_page([run], tmp_path / "page.html")
    assert "grkd is ahead" in (tmp_path / "page.html").read_text()
    assert cli.main(["table", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "**Paired comparisons**" in printed
    assert "grkd is ahead" in printed
    assert cli.main(["table", str(tmp_path / "run"), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["comparisons"]) == 3
    assert cli.main(["table", str(tmp_path / "run"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 40
    assert rows[3]["query"] == "query 3"
    assert float(rows[3]["kd"]) == pytest.approx(means["kd"][3], rel=1e-5)
    assert rows[7]["kd"] == ""
    assert cli.main(["table", str(tmp_path / "run"), "--format", "latex"]) == 2
    (tmp_path / "eval").mkdir()
    assert cli.main(["table", str(tmp_path / "run"), str(tmp_path / "eval")]) == 2
    assert "give rankers' runs alone" in capsys.readouterr().err
    (tmp_path / "run" / "evaluate" / "kd-seed0" / "queries.npz").write_bytes(b"torn")
    assert "cannot be read" in compare_queries(run).notes[0]
