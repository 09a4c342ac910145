"""Final runs of a comparison: every method and seed, resumed after a kill, failures shown, settings that reach them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grkd.classify import lockstep, train
from grkd.files import read_json, write_json
from grkd.objectives.methods.kd import KD
from grkd.run import manifest as run_manifest
from grkd.run.jobs import NOT_YET
from grkd.run.results import collect
from tests.classify._toys import SMALL, compare, context, read, written

Groups = list[list[str]]


def test_students_of_a_group_have_one_seed_and_every_metric(tmp_path: Path, groups: Groups) -> None:
    assert set(compare(tmp_path, "search=null").values()) == {"done"}
    assert groups == [["ce-seed0", "soft-seed0", "grkd-seed0"], ["ce-seed1", "soft-seed1", "grkd-seed1"]]
    metrics = read_json(tmp_path / "run" / "evaluate" / "soft-seed1" / "metrics.json")
    for name in ("accuracy", "nll_nats", "kendall_tau", "ece"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"], name
    assert "kendall_tau" not in read_json(tmp_path / "run" / "evaluate" / "teacher" / "metrics.json")


def test_the_same_command_does_nothing_again_and_what_is_missing_is_made(tmp_path: Path, groups: Groups) -> None:
    compare(tmp_path, "search=null")
    run, before = tmp_path / "run", written(tmp_path / "run")
    first = read_json(run / "evaluate" / "soft-seed1" / "metrics.json")
    groups.clear()
    assert set(compare(tmp_path, "search=null").values()) == {"done"}
    assert groups == []
    ours = {"recipe.yaml", "environment.json", "results.json"}  # of the command, whatever it finds to do
    assert {name: time for name, time in written(run).items() if name not in ours} == {
        name: time for name, time in before.items() if name not in ours
    }
    shutil.rmtree(run / "train" / "soft-seed1")  # as if killed before it was complete
    assert set(compare(tmp_path, "search=null").values()) == {"done"}
    assert groups == [["soft-seed1"]]
    assert read_json(run / "evaluate" / "soft-seed1" / "metrics.json") == first  # alone as in its group


def test_other_groups_of_classes_are_measured_without_training(tmp_path: Path, groups: Groups) -> None:
    compare(tmp_path, *SMALL)
    groups.clear()
    assert set(compare(tmp_path, *SMALL, "evaluation.groups={round: ['3', '8']}").values()) == {"done"}
    assert groups == []
    metrics = read_json(tmp_path / "run" / "evaluate" / "kd-seed0" / "metrics.json")
    assert 0 <= metrics["within_group_accuracy/round"]["value"] <= 1


def test_another_setting_is_another_run(tmp_path: Path, groups: Groups) -> None:
    compare(tmp_path, *SMALL)
    assert groups == [["ce-seed0", "kd-seed0"]]
    compare(tmp_path, *SMALL, "methods.1.temperature=8.0")
    assert groups[1:] == [["kd-seed0"]]
    compare(tmp_path, *SMALL, "methods.1.temperature=8.0", "student.options.hidden=[7]")
    assert groups[2:] == [["ce-seed0", "kd-seed0"]]
    inputs = read_json(tmp_path / "run" / "train" / "kd-seed0" / "manifest.json")["inputs"]
    assert (inputs["learning_rate"], inputs["method"]["options"]) == (1e-2, {"temperature": 8.0})


def test_what_is_only_shown_or_saved_leaves_runs_be(tmp_path: Path, groups: Groups) -> None:
    compare(tmp_path, *SMALL)
    groups.clear()
    compare(tmp_path, *SMALL, "training.log_every=3", "training.save_every=5")
    assert groups == []


def test_results_have_no_metrics_of_older_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def shown(*words: str, **options: Any) -> set[str]:
        collect(read(tmp_path, *words), run, compare(tmp_path, *words, **options))
        return {row["method"] for row in read_json(run / "results.json")["rows"]}

    assert shown(*SMALL) == {"teacher", "ce", "kd"}
    changed = [*SMALL, "methods.1.temperature=8.0"]
    assert shown(*changed, minutes=0.0) == {"teacher", "ce"}
    assert shown(*changed, until="search") == {"teacher", "ce"}
    assert shown(*SMALL, minutes=0.0) == {"teacher", "ce", "kd"}  # complete students are shown after all
    real = run_manifest.write_json

    def killed(path: Path, value: Any) -> None:
        if path.name == "manifest.json" and "kd-seed0" in str(path):
            raise KeyboardInterrupt
        real(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(run_manifest, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(tmp_path, *changed)
    # The older student stands until the newer one is complete.
    assert shown(*SMALL, minutes=0.0) == {"teacher", "ce", "kd"}


def test_a_killed_comparison_leaves_the_results_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = lockstep.train_lockstep, [1]

    def killed(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(lockstep, "train_lockstep", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, "search=null", "methods=[ce]")
    results = read_json(tmp_path / "run" / "results.json")
    assert results["status"] == {"ce-seed0": "done", "ce-seed1": NOT_YET}
    assert {row["seed"] for row in results["rows"] if row["method"] == "ce"} == {0}


def test_a_process_opens_a_comparison_again_if_its_data_or_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(tmp_path, *SMALL)
    compare(tmp_path, *SMALL, until="teach")
    first = train.opened(found)
    assert train.opened(read(tmp_path, *SMALL)) is first
    manifest = tmp_path / "run" / "prepare" / "manifest.json"
    write_json(manifest, {**read_json(manifest), "key": "of other data"})
    second = train.opened(found)
    assert second is not first
    (tmp_path / "run").rename(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    monkeypatch.chdir(tmp_path)
    here = train.opened(replace(found, output="a"))
    monkeypatch.chdir(tmp_path / "b")
    assert train.opened(replace(found, output="a")) is not here


def test_a_final_run_may_fail_alone_and_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(KD, "terms", lambda self, batch: 1 / 0)
        status = compare(tmp_path, *SMALL)
    assert status == {"ce-seed0": "done", "kd-seed0": "failed: ZeroDivisionError: division by zero"}
    assert set(compare(tmp_path, *SMALL).values()) == {"done"}


def test_metrics_of_an_earlier_student_are_not_those_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(tmp_path, *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr("grkd.classify.evaluate.class_counts", lambda *_: 1 / 0)  # the students are trained by then
        status = compare(tmp_path, *SMALL, "training.epochs=1")
    assert set(status.values()) == {"failed: ZeroDivisionError: division by zero"}
    assert {row["method"] for row in read_json(tmp_path / "run" / "results.json")["rows"]} <= {"teacher"}


def test_students_begin_with_the_weights_that_are_given(tmp_path: Path) -> None:
    here = context(tmp_path, *SMALL)
    before = here.view(here.recipe.student).module.state_dict()
    begin = {name: torch.full_like(value, 0.125) for name, value in before.items()}
    save_file(begin, tmp_path / "begin.safetensors")
    words = (*SMALL, "methods=[ce]", f"student.weights={tmp_path / 'begin.safetensors'}", "training.learning_rate=1e-7")
    compare(tmp_path, *words)
    found = load_file(tmp_path / "run" / "train" / "ce-seed0" / "model" / "model.safetensors")
    assert all(torch.allclose(found[name], value, atol=1e-4) for name, value in begin.items())


def test_students_may_see_less_and_another_sample_per_seed(tmp_path: Path) -> None:
    compare(tmp_path, *SMALL, "data.student_limit=100", until="teach")
    opened = context(tmp_path, *SMALL, "data.student_limit=100")
    kept = [train.training_rows(opened, seed=seed, search=False) for seed in (0, 1)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert [len(rows) for rows in kept if rows is not None] == [100, 100]
    assert not kept[0].equal(kept[1])


def test_time_and_stages_stop_it_cleanly(tmp_path: Path, groups: Groups) -> None:
    assert set(compare(tmp_path, *SMALL, until="teach").values()) == {NOT_YET}
    assert (tmp_path / "run" / "score" / "scores.safetensors").exists()
    assert set(compare(tmp_path, *SMALL, minutes=0.0).values()) == {NOT_YET}
    assert set(compare(tmp_path, *SMALL, until="search").values()) == {NOT_YET}
    assert groups == []
    assert set(compare(tmp_path, *SMALL).values()) == {"done"}


def test_images_are_augmented_with_a_teacher_that_sees_them_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = lockstep.train_lockstep

    def noted(jobs: Any, examples: Any, **options: Any) -> Any:
        seen.append((options["teacher"] is not None, examples.teacher_scores, options["plan"]))
        return real(jobs, examples, **options)

    monkeypatch.setattr(lockstep, "train_lockstep", noted)
    words = ["lockstep.augment=true", "lockstep.optimizer=sgd", "lockstep.momentum=0.3", "training.epochs=0.5"]
    cnn = [f"{name}.{key}" for name in ("teacher", "student") for key in ("model=cnn", "options={channels: [4]}")]
    assert set(compare(tmp_path, *SMALL, *words, *cnn, "teacher.training.epochs=1").values()) == {"done"}
    ((asked, scores, plan),) = seen
    assert (asked, scores) == (True, None)
    assert (plan.augment, plan.optimizer, plan.momentum, plan.epochs) == (True, "sgd", 0.3, 0.5)
