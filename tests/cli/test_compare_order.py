"""The order of a comparison's runs and what is on disk meanwhile, with stand-ins for training that take no time."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from grkd.files import write_json
from grkd.language import compare as compare_language
from grkd.reports import markdown_table, read_run
from grkd.run import jobs
from grkd.run.jobs import NOT_YET

# The slowest are not the first of the recipe; `still` answers nothing anew, so it is no slower than ce.
METHODS = (
    "methods=[ce, {name: minillm, label: plain, teacher_mix: 0.0}, {name: gkd, label: still, on_policy_fraction: 0.0}, "
    "minillm]"
)
SEARCH = ["search.trials=2", "search.learning_rate=[1e-3,2e-3]", "search.metric=reverse_kl_nats", "seeds=[4,1]"]


class Stage:
    """Stands in for jobs: notes them in order, leaves the figures that it is told to, fails where it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ended, self.begun = folder, list[str](), list[str]()
        self.values: dict[str, float] = {}
        self.broken: set[str] = set()
        self.killed_at: str | None = None
        self.slow: str | None = None
        self.results: list[dict[str, Any]] = []  # as they stood when a job began
        self.rates: dict[str, float] = {}

    def __call__(self, job: Any) -> None:
        self.begun.append(job.name)
        self.rates[job.name] = job.learning_rate
        found = self.folder / "results.json"
        self.results.append(json.loads(found.read_text()) if found.exists() else {})
        if job.name == self.killed_at:
            raise KeyboardInterrupt
        if job.name in self.broken:
            raise RuntimeError("no luck")
        if job.name == self.slow:
            time.sleep(1.5)
        value = {"value": self.values.get(job.name, 1.0), "low": None, "high": None}
        kind = "search" if job.trial is not None else "evaluate"
        write_json(self.folder / kind / job.name / "metrics.json", {"reverse_kl_nats": value})
        self.ended.append(job.name)


@pytest.fixture
def stage(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tiny_recipe.parent / "run")
    monkeypatch.setattr(compare_language, "perform", made)
    return made


def compare(recipe: Path, *words: str) -> int:
    return cli.main(["compare", str(recipe), METHODS, *SEARCH, *words])


def test_final_runs_follow_their_methods_own_trials_and_the_slow_come_first(tiny_recipe: Path, stage: Stage) -> None:
    stage.values = {"ce-trial1": 0.5, "minillm-trial0": 0.5}
    assert compare(tiny_recipe) == 0
    assert stage.ended == [
        "minillm-trial0", "minillm-trial1", "minillm-seed4",
        "plain-trial0", "plain-trial1", "plain-seed4",
        "ce-trial0", "ce-trial1", "ce-seed4",
        "still-trial0", "still-trial1", "still-seed4",
        "minillm-seed1", "plain-seed1", "ce-seed1", "still-seed1",
    ]  # fmt: skip
    found = {name: rate for name, rate in stage.rates.items() if "seed" in name}
    assert {name for name, rate in found.items() if rate == 2e-3} == {
        "ce-seed4",
        "ce-seed1",
    }  # the better


def test_nobody_waits_for_the_search_of_another_method(
    tiny_recipe: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Threads(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: Any) -> None:
            super().__init__(workers)

    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Threads)
    stage.slow = "minillm-trial0"
    assert compare(tiny_recipe, "--processes", "2") == 0
    at = stage.ended.index("minillm-trial0")
    assert set(stage.ended[at + 1 :]) == {"minillm-seed4", "minillm-seed1"}


def test_results_say_how_far_it_is_after_every_run(
    tiny_recipe: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.killed_at = "minillm-seed1"
    stage.broken = {"plain-trial0", "plain-trial1", "ce-seed4"}
    assert compare(tiny_recipe) == 130
    waiting = {f"{label}-seed{seed}": NOT_YET for label in ("ce", "plain", "still", "minillm") for seed in (4, 1)}
    seen = dict(zip(stage.begun, stage.results, strict=True))
    assert seen["minillm-trial0"] == {}
    assert seen["minillm-trial1"]["status"] == waiting
    assert seen["plain-trial0"]["status"] == waiting | {"minillm-seed4": "done"}
    lost = dict.fromkeys(("plain-seed4", "plain-seed1"), "failed: no trial ended")
    kept = {"minillm-seed4": "done", "still-seed4": "done", "ce-seed4": "failed: RuntimeError: no luck"}
    after = json.loads((stage.folder / "results.json").read_text())
    assert after["status"] == waiting | lost | kept
    assert {(row["method"], row["seed"]) for row in after["rows"] if row["seed"] is not None} == {
        ("minillm", 4),
        ("still", 4),
    }
    table = markdown_table(read_run(stage.folder))
    assert "minillm" in table
    assert NOT_YET.removeprefix("failed: ") in table
    search = json.loads((stage.folder / "search.json").read_text())
    assert [(line["method"], line["value"]) for line in search] == [
        (label, value)
        for label, value in (("ce", 1.0), ("plain", None), ("still", 1.0), ("minillm", 1.0))
        for _ in "12"
    ]

    stage.begun, stage.results, stage.killed_at, stage.broken = [], [], None, set()
    assert compare(tiny_recipe) == 0
    # Final runs on disk are looked at first; trials that ended well are not run again, those that failed are.
    assert stage.begun == [
        "minillm-seed4", "still-seed4",
        "plain-trial0", "plain-trial1", "plain-seed4", "ce-seed4",
        "minillm-seed1", "plain-seed1", "ce-seed1", "still-seed1",
    ]  # fmt: skip
    assert set(json.loads((stage.folder / "results.json").read_text())["status"].values()) == {"done"}


def test_search_json_has_the_trials_that_have_ended(tiny_recipe: Path, stage: Stage) -> None:
    stage.killed_at = "plain-trial1"
    assert compare(tiny_recipe) == 130
    search = json.loads((stage.folder / "search.json").read_text())
    assert [(line["method"], line["settings"]["learning_rate"], line["outcome"]) for line in search] == [
        ("plain", 1e-3, "done"),
        ("minillm", 1e-3, "done"),
        ("minillm", 2e-3, "done"),
    ]


def test_without_a_search_all_runs_are_ready(tiny_recipe: Path, stage: Stage) -> None:
    assert cli.main(["compare", str(tiny_recipe), METHODS, "seeds=[4,1]", "training.learning_rate=3e-3"]) == 0
    assert stage.ended == [f"{label}-seed{seed}" for seed in (4, 1) for label in ("minillm", "plain", "ce", "still")]
    assert set(stage.rates.values()) == {3e-3}
    assert not (stage.folder / "search.json").exists()
