"""The search of a comparison of classifiers: as many trials for every method, none repeated, the best kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from grkd.classify import lockstep, train
from grkd.classify.context import NOT_FINITE
from grkd.files import read_json
from grkd.objectives.methods.kd import KD
from grkd.run.jobs import NOT_YET
from tests.classify._toys import compare, context

Groups = list[list[str]]
KD_ONLY = ("methods=[kd]", "search={trials: 4, learning_rate: [1e-3, 3e-3, 1e-2, 3e-2]}", "seeds=[0]")


def trials(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(tmp_path / "run" / "search.json")
    return found


def test_every_method_gets_its_trials_and_the_best_is_run_with_every_seed(tmp_path: Path) -> None:
    status = compare(tmp_path)
    assert status == {f"{label}-seed{seed}": "done" for label in ("ce", "soft", "grkd") for seed in (0, 1)}
    counts = {label: sum(one["method"] == label for one in trials(tmp_path)) for label in ("ce", "soft", "grkd")}
    assert counts == {"ce": 2, "soft": 4, "grkd": 4}  # ce has two settings and no more
    assert {one["method"]: one["grid"] for one in trials(tmp_path)} == {"ce": 2, "soft": 6, "grkd": 4}
    for label in counts:
        valued = [one for one in trials(tmp_path) if one["method"] == label and one["value"] is not None]
        best = max(valued, key=lambda one: one["value"])["settings"]
        for seed in (0, 1):
            inputs = read_json(tmp_path / "run" / "train" / f"{label}-seed{seed}" / "manifest.json")["inputs"]
            settings = {"learning_rate": inputs["learning_rate"], **inputs["method"]["options"]}
            assert {name: settings[name] for name in best} == best


def test_a_killed_search_goes_on_without_repeating_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: Groups
) -> None:
    real, left = lockstep.train_lockstep, [1]

    def killed(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    words = [*KD_ONLY, "lockstep.students=1"]
    monkeypatch.setattr(lockstep, "train_lockstep", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, *words)
    assert [one["settings"]["learning_rate"] for one in trials(tmp_path)] == [1e-3]
    left[0] = 99
    groups.clear()
    compare(tmp_path, *words, until="search")
    assert groups == [["kd-trial1"], ["kd-trial2"], ["kd-trial3"]]
    assert len(trials(tmp_path)) == 4
    groups.clear()
    compare(tmp_path, *words, until="search")
    assert groups == []


def test_fewer_trials_than_before_are_fewer_for_every_method(tmp_path: Path) -> None:
    """A method that had more trials in an earlier command would be chosen among more."""
    compare(tmp_path, *KD_ONLY, until="search")
    compare(tmp_path, *KD_ONLY, "methods=[kd, dkd]", "search.trials=2", until="search")
    assert sorted(one["method"] for one in trials(tmp_path)) == ["dkd", "dkd", "kd", "kd"]


def test_a_trial_without_finite_scores_is_a_trial(
    tmp_path: Path, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end so again, and another command would try other settings in its place."""
    real = lockstep.validation_metrics

    def lost(opened: Any, logits: torch.Tensor) -> Any:
        found = real(opened, logits)
        return {name: {**one, "value": None} for name, one in found.items()} if len(groups) == 1 else found

    monkeypatch.setattr(lockstep, "validation_metrics", lost)
    words = [*KD_ONLY, "lockstep={students: 1, prune: false}"]
    compare(tmp_path, *words, until="search")
    assert [one["failure"] for one in trials(tmp_path)].count(NOT_FINITE) == 1
    groups.clear()
    compare(tmp_path, *words, until="search")
    assert groups == []


def test_a_method_whose_trials_fail_is_shown_and_tried_again_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, batch: Any) -> Any:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patched:
        patched.setattr(KD, "terms", broken)
        status = compare(tmp_path, "methods=[ce, {name: kd, label: soft}]", "search.options={}")
    metrics = {one["method"]: bool(one["metrics"]) for one in trials(tmp_path)}
    assert metrics == {"ce": True, "soft": False}  # nothing to measure
    assert status["ce-seed0"] == "done"
    assert status["soft-seed0"] == "failed: every trial of its search failed: RuntimeError: no such luck"
    again = compare(tmp_path, "methods=[ce, {name: kd, label: soft}]", "search.options={}")
    assert set(again.values()) == {"done"}


def test_trials_below_the_median_of_those_that_ended_stop_half_way(tmp_path: Path) -> None:
    words = [*KD_ONLY, "search.learning_rate=[1e-5, 1e-3, 3e-3, 1e-2, 3e-2]", "training.epochs=4"]
    compare(tmp_path, *words, until="search")
    first, later = trials(tmp_path)[:2], trials(tmp_path)[2:]
    assert [one["stopped_after"] for one in first] == [None, None]
    assert len(later) == 2
    known = first
    for one in later:
        halves = sorted(each["half"] for each in known)
        median = (halves[(len(halves) - 1) // 2] + halves[len(halves) // 2]) / 2
        assert (one["stopped_after"] == 2) == (one["half"] < median)
        assert (one["value"] is None) == (one["half"] < median)
        known = [each for each in [*known, one] if each["value"] is not None]
    compare(tmp_path, *words, "lockstep.prune=false", until="search")
    assert {one["stopped_after"] for one in trials(tmp_path)} == {None}


def test_trials_may_be_shorter_and_groups_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, float]] = []
    real = lockstep.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> Any:
        seen.append((len(jobs), jobs[0].name, options["plan"].epochs))
        return real(jobs, examples, **options)

    monkeypatch.setattr(lockstep, "train_lockstep", noted)
    compare(tmp_path, *KD_ONLY, "methods=[kd, dkd, ce]", "lockstep.search_epochs=0.5", "lockstep.students=2")
    assert {epochs for _, name, epochs in seen if "trial" in name} == {0.5}
    assert {epochs for _, name, epochs in seen if "seed" in name} == {2.0}
    assert max(size for size, _, _ in seen) == 2
    assert sorted(size for size, name, _ in seen if "seed" in name) == [1, 2]


def test_longer_trials_are_other_trials(tmp_path: Path) -> None:
    # One at a time, since lock-step lacks the accumulation.
    words = ("methods=[kd]", "search.trials=1", "search.options={}", "training.gradient_accumulation=2", "seeds=[0]")
    steps = []
    for epochs in (0.5, 1.0):
        compare(tmp_path, *words, f"lockstep.search_epochs={epochs}", until="search")
        steps.append(trials(tmp_path)[0]["steps"])
    assert steps == [3, 5]


def test_a_search_that_is_left_out_is_shown_no_more(tmp_path: Path) -> None:
    compare(tmp_path, *KD_ONLY, until="search")
    assert set(compare(tmp_path, *KD_ONLY, minutes=0.0).values()) == {NOT_YET}
    assert (tmp_path / "run" / "search.json").exists()
    compare(tmp_path, "methods=[ce]", "search=null", until="search")
    assert not (tmp_path / "run" / "search.json").exists()


def test_the_validation_part_is_kept_from_the_trials_and_given_back(tmp_path: Path) -> None:
    compare(tmp_path, until="teach")
    opened = context(tmp_path)
    fit, validation = opened.search_rows
    assert (len(fit), len(validation)) == (270, 30)
    assert sorted([*fit.tolist(), *validation.tolist()]) == list(range(300))
    kept = train.training_rows(opened, seed=0, search=True)
    assert kept is not None
    assert kept.equal(fit)
    assert train.training_rows(opened, seed=0, search=False) is None


def test_few_labels_leave_every_class_one_in_the_search(tmp_path: Path) -> None:
    assert set(compare(tmp_path, *KD_ONLY, "data.student_limit=10", until="search").values()) == {NOT_YET}
    assert len(trials(tmp_path)) == 4


class Dropping(nn.Module):
    """Dropout by a function, which no look at the layers shows."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(features, 16), nn.Linear(16, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.dropout(self.body(inputs.flatten(1)).relu(), 0.3, self.training))


def test_dropout_by_a_function_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the state that all share, and whoever is trained beside it."""
    found = []
    real = lockstep.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> Any:
        options["build"] = lambda seed: (torch.manual_seed(seed), Dropping(64, 10))[1]
        found.append(real(jobs, examples, **options))
        return found[-1]

    monkeypatch.setattr(lockstep, "train_lockstep", noted)
    for number, methods in enumerate(["[kd]", "[ce, kd]"]):
        torch.manual_seed(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        # The saved weights are another network's, so the students cannot be loaded: only the losses are looked at.
        compare(folder, f"methods={methods}", "seeds=[0]", "search=null")
    losses = [trained["kd-seed0"].losses_nats for trained in found]
    assert losses[0] == losses[1]
    assert all(loss == loss for loss in losses[0])
