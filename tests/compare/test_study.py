"""A method's trials in Optuna's journal: equal numbers, none repeated after a kill, the pruner's choice, damage."""

import sys
from pathlib import Path
from typing import Any

import pytest

from grkd.compare.search import grid
from grkd.compare.study import Study
from grkd.errors import UserError

SPACE: dict[str, list[Any]] = {"learning_rate": [0.01, 0.03, 0.1, 0.3], "hidden": [[1], [2, 3], None]}


def opened(tmp_path: Path, **changed: Any) -> Study:
    options: dict[str, Any] = {"label": "kd", "key": "k", "space": SPACE, "trials": 6, "seed": 0, "maximise": True}
    return Study(tmp_path / "optuna.journal", **{**options, **changed})


def finished(study: Study) -> list[dict[str, Any]]:
    """Run a search to its end; a trial's value is its learning rate. Returns the settings in their order."""
    tried = []
    while batch := study.next():
        for trial in batch:
            tried.append(trial.settings)
            study.tell(trial.number, value=trial.settings["learning_rate"])
    return tried


def test_every_search_has_its_trials_and_the_best_of_them(tmp_path: Path) -> None:
    study = opened(tmp_path)
    assert study.best() is None
    assert study.why_none() is None
    tried = finished(study)
    assert len(tried) == 6
    assert all(settings in grid(SPACE) and tried.count(settings) == 1 for settings in tried)
    best = study.best()
    assert best is not None
    assert best.value == max(settings["learning_rate"] for settings in tried)
    assert finished(opened(tmp_path)) == []  # another command has nothing left to do
    assert opened(tmp_path).best() == best


def test_half_of_the_trials_first_then_a_quarter_at_a_time_a_small_grid_at_once(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=8)
    sizes = []
    while batch := study.next():
        sizes.append(len(batch))
        assert study.next() == []  # some are under way
        for trial in batch:
            study.tell(trial.number, value=0.5)
    assert sizes == [4, 2, 2]
    assert len(opened(tmp_path, label="ce", space={"learning_rate": [0.1, 0.2, 0.3]}).next()) == 3


def test_a_killed_search_repeats_nothing_and_loses_nothing(tmp_path: Path) -> None:
    whole = finished(opened(tmp_path / "whole"))
    study = opened(tmp_path)
    first = study.next()
    study.tell(first[0].number, value=first[0].settings["learning_rate"])
    again = opened(tmp_path)  # killed while two were running
    left = again.next()
    assert [trial.settings for trial in left] == [trial.settings for trial in first[1:]]
    assert [trial.number for trial in left] == [1, 2]
    for trial in left:
        again.tell(trial.number, value=trial.settings["learning_rate"])
    finished(again)
    assert [trial.settings for trial in again.ended()] == whole


def test_failed_trials_count_and_are_run_again_by_the_next_command_alone(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first = study.next()
    study.tell(first[0].number, failure="out of memory")
    study.tell(first[1].number, failure="its scores are not finite", lasting=True)
    study.tell(first[2].number, value=0.5)
    finished(study)
    assert study.is_over
    assert [trial.outcome for trial in study.ended()][:3] == [
        "failed: out of memory", "failed: its scores are not finite", "done",
    ]  # fmt: skip
    again = opened(tmp_path)
    assert not again.is_over
    repeated = again.next()
    assert [(trial.number, trial.settings) for trial in repeated] == [(0, first[0].settings)]
    again.tell(0, value=0.9)
    assert again.next() == []
    assert len(again.ended()) == 6
    best = again.best()
    assert best is not None
    assert (best.number, best.value) == (0, 0.9)


def test_a_method_whose_trials_all_fail_has_no_best(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=2)
    while batch := study.next():
        for trial in batch:
            study.tell(trial.number, failure="no luck")
    assert study.is_over
    assert study.best() is None
    assert study.why_none() == opened(tmp_path, trials=2).why_none() == "no luck"


def test_another_key_is_another_search_and_other_ranges_keep_what_they_hold(tmp_path: Path) -> None:
    tried = finished(opened(tmp_path, trials=12))
    assert len(tried) == 12
    assert opened(tmp_path, key="other data").ended() == []
    narrow = opened(tmp_path, trials=6, space={**SPACE, "hidden": [[2, 3], None]})
    assert len(narrow.ended()) == 6
    assert narrow.next() == []  # fewer trials than before are fewer for every method
    assert all(trial.settings["hidden"] != [1] for trial in narrow.ended())
    wide = opened(tmp_path, trials=14, space={**SPACE, "learning_rate": [*SPACE["learning_rate"], 1.0]})
    assert len(wide.ended()) == 12
    assert len(finished(wide)) == 2


def test_fewer_trials_than_before_are_fewer(tmp_path: Path) -> None:
    finished(opened(tmp_path, trials=8))
    study = opened(tmp_path, trials=4)
    assert (len(study.ended()), study.next(), study.is_over) == (4, [], True)


def test_the_median_pruner_stops_what_is_worse_than_half_of_what_has_ended(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for trial, value in zip(study.next(), (0.2, 0.4, 0.6), strict=True):
        assert not study.should_stop(trial.number, epoch=2, value=value)  # nothing has ended yet
        study.tell(trial.number, value=value)
    (worse,) = study.next()
    assert study.should_stop(worse.number, epoch=2, value=0.3)
    study.tell(worse.number, value=0.3, stopped_after=2)
    (better,) = study.next()
    assert not study.should_stop(better.number, epoch=2, value=0.5)
    study.tell(better.number, value=0.5)
    record = study.records(metric="accuracy")[worse.number]
    assert (record["value"], record["half"], record["stopped_after"]) == (None, 0.3, 2)
    assert record["outcome"] == "stopped after epoch 2"


def test_a_search_record_says_how_many_points_its_grid_has(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=1)
    for trial in study.next():
        study.tell(trial.number, value=0.5, details={"steps": 7})
    (record,) = study.records(metric="accuracy")
    assert (record["grid"], record["steps"], record["metric"], record["method"]) == (12, 7, "accuracy", "kd")


def test_a_damaged_journal_and_a_missing_optuna_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(opened(tmp_path))
    journal = tmp_path / "optuna.journal"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0][:20], *lines[1:]]) + "\n")
    with pytest.raises(UserError, match="delete it to search again"):
        opened(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"grkd\[search\]"):
        opened(tmp_path)
