import json
from collections.abc import Callable
from pathlib import Path

import pytest

from grkd.errors import UserError
from grkd.reports import read_run
from grkd.reports.results import split_name

MakeRun = Callable[..., Path]


def test_whole_run(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert (run.title, run.task, run.missing) == ("Digits", "classifier", ())
    assert run.labels == ("ce", "kd", "grkd")
    assert run.seeds("kd") == (0, 1, 2)
    assert run.counts["prompts_dropped_too_long"] == 3
    assert len(run.curves) == 9
    grkd = next(curve for curve in run.curves if (curve.label, curve.seed) == ("grkd", 1))
    assert [step.step for step in grkd.steps] == [1, 2, 3, 4, 5]
    assert grkd.steps[0].loss_nats == 4.0
    assert grkd.steps[4].terms == {"soft_target": 0.4, "group_relative": 0.2}


def test_failed_trainings_are_told_with_their_reason(make_run: MakeRun) -> None:
    run = read_run(make_run(status={"dpo-x-seed12": "failed: out of memory"}))
    assert run.failures == {"dpo-x-seed12": "out of memory"}
    assert run.labels[-1] == "dpo-x"


def test_split_name() -> None:
    assert split_name("kd-seed-seed7") == ("kd-seed", 7)
    assert split_name("kd-seed") == ("kd-seed", None)
    assert split_name("kd") == ("kd", None)


@pytest.mark.parametrize("name", ["results.json", "environment.json", "recipe.yaml"])
def test_missing_file_is_named(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    (folder / name).unlink()
    run = read_run(folder)
    assert run.missing == (name,)
    assert run.title == ("From the recipe" if name == "results.json" else "Digits")


def test_samples_are_missed_of_language_models_only(make_run: MakeRun) -> None:
    assert read_run(make_run("language", task="language_model")).missing == ("evaluate/samples.json",)


def test_nan_is_no_value(make_run: MakeRun) -> None:
    rows = [{"method": "kd", "seed": 0, "metric": "accuracy", "value": float("nan"), "low": float("inf")}]
    run = read_run(make_run(rows=rows))
    assert run.rows[0].value is None
    assert run.rows[0].low is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not valid JSON"),
        ('{"title": "x", "task": "classifier", "rows": [{"method": "kd"}]}', "rows.0.metric"),
        *(
            (
                json.dumps({"task": "rank", "rows": [{"method": "kd", "metric": "m", **odd}]}),
                "characters that can be shown",
            )
            for odd in ({"metric": " "}, {"metric": "\ud83d"}, {"method": "a\0"}, {"method": "x" * 300})
        ),
        ('{"title": "x", "task": "poetry", "rows": []}', "task"),
        ("[]", "results.json"),
        (json.dumps({"task": "rank", "title": "\ud83d"}), "characters that can be shown"),
        (json.dumps({"task": "rank", "status": {"kd-seed0": "failed: \ud83d"}}), "characters that can be shown"),
    ],
)
def test_broken_results_are_the_users_error(make_run: MakeRun, text: str, told: str) -> None:
    folder = make_run()
    (folder / "results.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_run(folder)
    assert str(folder / "results.json") in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)


def test_continued_training_keeps_the_last_record_of_a_step(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "train" / "kd-seed0" / "metrics.jsonl"
    again = json.dumps({"step": 3, "loss_nats": 7.5}) + "\n"
    path.write_text(path.read_text() + again + '{"step": 6, "lo')  # stopped while writing
    steps = next(curve.steps for curve in read_run(folder).curves if (curve.label, curve.seed) == ("kd", 0))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert steps[2].loss_nats == 7.5


def test_broken_line_inside_a_log_is_named(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "train" / "kd-seed0" / "metrics.jsonl"
    path.write_text("{oops\n" + path.read_text())
    with pytest.raises(UserError, match=r"kd-seed0/metrics\.jsonl line 1"):
        read_run(folder)
