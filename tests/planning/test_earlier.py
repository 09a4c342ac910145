"""The power of a comparison by what an earlier run's seeds show."""

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from grkd import cli
from grkd.errors import UserError
from grkd.planning.earlier import can_show, power_of, spread_of

QUESTIONS, SEEDS = 200, range(4)


def earlier(folder: Path, values: dict[str, list[float]], metric: str = "exact_match") -> Path:
    """A run's folder with these values by method and seed."""
    rows = [
        {"method": method, "seed": seed, "metric": metric, "value": value}
        for method, own in values.items()
        for seed, value in enumerate(own)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"task": "language_model", "title": "earlier", "rows": rows}))
    return folder


def with_items(folder: Path) -> dict[str, list[list[int]]]:
    """A run with answers to questions, drawn at random: per method and seed, right or wrong."""
    drawn = random.Random(0)
    items = {
        method: [[int(drawn.random() < share + seed / 50) for _ in range(QUESTIONS)] for seed in SEEDS]
        for method, share in (("kd", 0.5), ("grkd", 0.55), ("dist", 0.5))
    }
    earlier(folder, {method: [statistics.fmean(one) for one in own] for method, own in items.items()})
    for method, own in items.items():
        for seed, one in enumerate(own):
            place = folder / "evaluate" / f"{method}-seed{seed}"
            place.mkdir(parents=True)
            (place / "exact_match.json").write_text(json.dumps([{"correct": value} for value in one]))
    return items


def test_the_spread_is_that_of_the_differences_over_seeds(tmp_path: Path) -> None:
    """By hand: all pairs of methods; on four times the questions, a quarter of what questions make."""
    items = with_items(tmp_path / "run")
    pairs = [("kd", "grkd"), ("kd", "dist"), ("grkd", "dist")]
    by_seeds = statistics.fmean(
        statistics.variance(statistics.fmean(items[a][seed]) - statistics.fmean(items[b][seed]) for seed in SEEDS)
        for a, b in pairs
    )
    per_question = statistics.fmean(
        statistics.pvariance([x - y for x, y in zip(items[a][seed], items[b][seed], strict=True)])
        for a, b in pairs
        for seed in SEEDS
    )
    same = spread_of(tmp_path / "run", questions=QUESTIONS)
    assert same.deviation == pytest.approx(math.sqrt(by_seeds))
    more = spread_of(tmp_path / "run", questions=4 * QUESTIONS)
    expected = by_seeds - 0.75 * min(by_seeds, per_question / QUESTIONS)
    assert more.deviation == pytest.approx(math.sqrt(expected))
    (first, _) = power_of(tmp_path / "run", seeds=5, questions=QUESTIONS, unit="questions")
    points = float(first.split("you can detect ")[1].split(" points of exact match")[0]) / 100
    bound = stats.t.ppf(0.975, 4)
    assert stats.nct.sf(bound, 4, points * math.sqrt(5) / same.deviation) == pytest.approx(0.8, abs=0.02)
    assert "3 methods, 4 seeds, their differences vary by" in first


def test_a_metric_with_another_unit(tmp_path: Path) -> None:
    values = {"kd": [1.0, 1.02, 1.01], "grkd": [0.95, 0.99, 0.94]}
    folder = earlier(tmp_path / "run", values, metric="forward_kl_nats")
    spread = spread_of(folder, questions=10)
    assert spread.deviation == pytest.approx(statistics.stdev([0.05, 0.03, 0.07]))
    (first, second) = power_of(folder, seeds=4, questions=10, unit="held-out prompts")
    assert " nats of forward KL with 80 % power" in first
    assert "0.01 nats: " in second


def test_runs_that_show_nothing(tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = earlier(tmp_path / "few", {"kd": [0.5, 0.6], "grkd": [0.5, 0.7]})
    alone = earlier(tmp_path / "alone", {"kd": [0.5, 0.6, 0.7]})
    equal = earlier(tmp_path / "equal", {"kd": [0.5, 0.6, 0.7], "grkd": [0.5, 0.6, 0.7]})
    for folder, words in (
        (few, "with 3 seeds or more in it"),
        (alone, "no two methods"),
        (equal, "differ equally"),
    ):
        with pytest.raises(UserError, match=words):
            spread_of(folder, questions=10)
        assert not can_show(folder)
    assert cli.main(["plan", str(tiny_recipe), "--quick", "--from", str(few)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_takes_it_and_the_own_run_by_itself(
    tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"kd": [0.5, 0.62, 0.7], "grkd": [0.52, 0.6, 0.75]}
    given = earlier(tmp_path / "earlier", values)
    seeds = "seeds=[0,1,2]"
    assert cli.main(["plan", str(tiny_recipe), seeds, "--quick", "--json"]) == 0
    assert "assuming" in json.loads(capsys.readouterr().out)["power"][0]
    assert cli.main(["plan", str(tiny_recipe), seeds, "--quick", "--json", "--from", str(given)]) == 0
    assert str(given) in json.loads(capsys.readouterr().out)["power"][0]
    own = earlier(tmp_path / "run", values)
    assert cli.main(["plan", str(tiny_recipe), seeds, "--quick", "--json"]) == 0
    assert f"({own}: 2 methods, 3 seeds" in json.loads(capsys.readouterr().out)["power"][0]
