"""The on-policy experiment on a tiny model: equal time, sittings that go on, one file of results, a page."""

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _on_policy_jobs, _on_policy_pace, _on_policy_sitting, on_policy
from benchmarks._on_policy_experiments import EXPERIMENTS
from grkd import objectives
from grkd.files import read_json
from grkd.language.score import cached_splits
from grkd.training import fresh_groups

METHODS = (
    "methods=[{name: opd}, {name: grkd, label: grkd-verifier, preset: responses, rankers: [verifier]}, "
    "{name: grkd, label: grkd-votes, preset: responses, rankers: [verifier, log_prob], combine: votes}]"
)
TINY = [
    METHODS,
    "seeds=[0]",
    "device=cpu",
    "responses.n=3",
    "responses.mixture={student: 1, teacher: 1, data: 1}",
    "responses.max_new_tokens=4",
    "training.batch_size=4",
    "search.learning_rate=[1e-3, 1e-2]",
    "search.trials=2",
    "evaluation.top_k=5",
    "evaluation.curve_points=2",
    "evaluation.answer_tokens=4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """Both starts, and questions whose answers are words."""
    made = tmp_path_factory.mktemp("on-policy")
    for side in on_policy.SIDES:
        shutil.copytree(tiny_teacher, made / side / "train" / "sft-seed0" / "student")
    for name, count in (("train", 12), ("heldout", 4), ("validation", 6), ("test", 8)):
        lines = [
            {"id": f"{name}/{n}", "prompt": f"w{n} w{n + 1}", "question": f"w{n} w{n + 1}", "answer": f"w{n % 5}"}
            | ({"completion": f"w{n % 5}"} if name in ("train", "heldout") else {})
            for n in range(count)
        ]
        (made / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def sitting(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["on_policy", *words])
    return on_policy.main()


def test_sittings_go_on_and_make_a_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--trial-steps", "4", "--budget", "0.2", "--processes", "1", "--set", *TINY]
    command = ["run", str(folder), "--out", str(tmp_path / "first"), "--seconds"]
    # A sitting without time for any job leaves a file from which the next one goes on.
    assert sitting(monkeypatch, *command, "1", *common) == 0
    assert "3 final runs are left" in capsys.readouterr().out
    more = ["run", str(folder), "--out", str(tmp_path / "second"), "--resume-from", str(tmp_path / "first"), *common]
    assert sitting(monkeypatch, *more) == 0
    assert "all final runs are there" in capsys.readouterr().out
    found = read_json(tmp_path / "second" / "on-policy.json")
    assert len(found["sittings"]) == 2
    assert {run["sitting"] for run in found["runs"].values()} == {1}
    assert set(found["plan"]) == {"opd", "grkd-verifier", "grkd-votes"}
    assert len(found["trials"]) == 4  # grkd-votes takes the rate of grkd-verifier
    assert (
        found["plan"]["grkd-votes"]
        == found["plan"]["grkd-verifier"]
        == found["runs"]["grkd-votes-seed0"]["learning_rate"]
    )
    for name, run in found["runs"].items():
        assert run["seconds"] >= 0.2
        assert run["curve"][0]["step"] == 0
        assert run["took"] > run["seconds"]
        assert all(set(part) == {"verifier"} for part in run["rewards"]) or run["method"] != "grkd-verifier"
        assert bool(run["rewards"]) == (run["method"] != "opd")
        assert run["curve"][-1]["step"] == run["steps"]
        assert len(run["correct"]) == 8
        assert name == f"{run['method']}-seed{run['seed']}"
    # The time of the curve's answers is not training's.
    assert run["curve"][-1]["seconds"] <= run["seconds"] + 0.01
    before = (tmp_path / "second" / "on-policy.json").read_text()
    assert sitting(monkeypatch, "run", str(folder), "--out", str(tmp_path / "second"), *common) == 0
    assert read_json(tmp_path / "second" / "on-policy.json")["runs"] == json.loads(before)["runs"]  # nothing twice
    monkeypatch.setattr(on_policy, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(on_policy, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    assert sitting(monkeypatch, "keep", str(tmp_path / "second"), "--without", *found["runs"]) == 0
    assert sitting(monkeypatch, "table") == 0
    page = (tmp_path / "docs" / "results-on-policy.md").read_text()
    assert "The final runs are not made yet." in page
    assert "### Results" not in page
    assert sitting(monkeypatch, "keep", str(tmp_path / "second")) == 0
    assert sitting(monkeypatch, "table") == 0
    page = (tmp_path / "docs" / "results-on-policy.md").read_text()
    assert "| student before |" in page
    assert re.search(r"\| grkd-votes \| log_prob \| -\d", page)
    assert (tmp_path / "docs" / "results-on-policy.svg").exists()


MIXED = [
    "seeds=[0]",
    "device=cpu",
    "responses.n=3",
    "responses.mixture={student: 1, teacher: 1, data: 1}",
    "responses.max_new_tokens=4",
    "training.batch_size=4",
    "training.steps_per_generation=2",
    "evaluation.top_k=5",
    "evaluation.curve_points=1",
    "evaluation.answer_tokens=4",
]


def test_the_second_experiment_shares_stored_responses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates are the recipe's; which prompts a method answers anew; long runs come last, and only with time left."""
    monkeypatch.setitem(EXPERIMENTS, "mixed", replace(EXPERIMENTS["mixed"], long_steps=3))
    asked: dict[str, list[int]] = {}
    real = fresh_groups.answered_anew

    def noted(seeds: list[int], share: float) -> list[int]:
        asked.setdefault(str(share), []).append(len(seeds))
        return real(seeds, share)

    monkeypatch.setattr(fresh_groups, "answered_anew", noted)
    words = ["run", str(folder), "--experiment", "mixed", "--out", str(tmp_path), "--budget", "0.1", "--processes", "1"]
    every = on_policy.filled_in(folder, MIXED, "mixed").methods
    kept = [each for each in every if each.label in ("kd", "kd-mixed", "grkd-mixed", "opd-mixed", "kd-long")]
    real_recipe = on_policy.filled_in
    monkeypatch.setattr(on_policy, "filled_in", lambda *given: replace(real_recipe(*given), methods=kept))
    assert sitting(monkeypatch, *words, "--set", *MIXED) == 0
    monkeypatch.setattr(on_policy, "filled_in", real_recipe)
    assert "all final runs are there" in capsys.readouterr().out
    found = read_json(tmp_path / "on-policy-mixed.json")
    labels = ["kd", "kd-mixed", "grkd-mixed", "opd-mixed", "kd-long"]
    assert list(found["runs"]) == [f"{label}-seed0" for label in labels]
    assert {run["learning_rate"] for run in found["runs"].values()} == {6e-5}
    assert found["trials"] == {}
    assert found["runs"]["kd-long-seed0"]["steps"] == 3
    assert set(asked) == {"0.5"}  # of the mixed methods; the others ask for nothing
    assert [label for label in labels if found["runs"][f"{label}-seed0"]["rewards"]] == ["grkd-mixed"]
    recipe = on_policy.filled_in(folder, MIXED, "mixed")
    plan = on_policy.planned(recipe, {})
    jobs = on_policy.final_jobs(recipe, plan, {}, budget=30.0, experiment=EXPERIMENTS["mixed"])
    alone = [job.method.label for job in jobs if job.recipe.responses.when == "before"]
    assert alone == ["kd", "grkd-stored", "kd-long", "grkd-stored-long"]


LONG = [*MIXED, "training.steps_per_generation=2", "methods=[{name: kd}, {name: grpo, label: grpo-teacher-kl, "
        "teacher_kl: 1.0, rankers: [verifier]}, {name: grkd, preset: responses}]"]  # fmt: skip


def test_the_third_experiment_goes_on_from_one_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GRPO's groups are its own, grkd's partly stored; a second sitting with another start is refused."""
    recipe = on_policy.filled_in(folder, LONG, "long")
    jobs = on_policy.final_jobs(recipe, on_policy.planned(recipe, {}), {}, budget=9.0, experiment=EXPERIMENTS["long"])
    asked = {job.method.label: (job.recipe.responses.when, job.recipe.responses.stored_share) for job in jobs}
    assert asked == {
        "kd": ("before", 0.75), "grpo-teacher-kl": ("in_training", 0.0), "grkd": ("in_training", 0.75)
    }  # fmt: skip
    words = ["run", str(folder), "--experiment", "long", "--budget", "0.1", "--processes", "1", "--set", *LONG]
    first, second = tmp_path / "first", tmp_path / "second"
    assert sitting(monkeypatch, *words, "--out", str(first), "--only", "kd") == 0
    assert "2 final runs are left" in capsys.readouterr().out
    more = ["--out", str(second), "--resume-from", str(first)]
    assert sitting(monkeypatch, *words, *more) == 0
    assert "all final runs are there" in capsys.readouterr().out
    found = read_json(second / "on-policy-long.json")
    assert list(found["runs"]) == ["kd-seed0", "grpo-teacher-kl-seed0", "grkd-seed0"]
    for one in found["sittings"]:
        one["starts"]["student"] = "another"
    (first / "on-policy-long.json").write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="that of the runs in the file of results another"):
        sitting(monkeypatch, *words, "--out", str(tmp_path / "third"), "--resume-from", str(first))


def test_the_full_study_gives_each_method_its_groups(folder: Path) -> None:
    """Ten methods of three seeds; the soft targets of grkd are those of kd."""
    recipe = on_policy.filled_in(folder, [], "full")
    experiment = EXPERIMENTS["full"]
    jobs = on_policy.final_jobs(recipe, on_policy.planned(recipe, {}), {}, budget=9.0, experiment=experiment)
    assert len(jobs) == 30
    asked = {job.method.label: (job.recipe.responses.when, job.recipe.responses.stored_share) for job in jobs}
    own, mixed = ("in_training", 0.0), ("in_training", 0.75)
    ours = [f"grkd-{order}" for order in ("verifier", "teacher", "verifier-then-teacher", "votes")]
    assert asked == {
        **dict.fromkeys(ours, mixed), **dict.fromkeys(("grpo", "grpo-teacher-kl", "dpo"), own),
        "opd": mixed, "gkd": mixed, "kd": ("before", 0.75),
    }  # fmt: skip
    loaded = {each.label: objectives.load(each.name, **each.options) for each in recipe.methods}
    assert loaded["opd"].on_policy == 1.0
    assert loaded["gkd"].on_policy == 0.5
    for label in ours:  # without the pairs it is kd
        form = replace(loaded[label], ranking=(), alpha_ceiling=0.0).head_options(0.5)
        assert loaded["kd"].head_options(0.5).items() <= form.items()
    assert cached_splits(recipe, shared=True) == ["train", "heldout"]


FULL = [
    *[word for word in MIXED if not word.startswith("seeds")],
    "seeds=[0, 1]",
    "methods=[{name: kd}, {name: opd}, {name: grkd, label: grkd-votes, preset: responses, combine: votes}]",
]


def test_a_pace_test_and_whole_seeds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pace test chooses the time and keeps nothing else; a seed begins only if all of it fits."""
    common = ["--experiment", "full", "--out", str(tmp_path), "--processes", "1", "--set", *FULL]
    paced = ["pace", str(folder), "--budget", "0.3", *common]
    monkeypatch.setattr(_on_policy_pace, "budget", lambda found, most: 0.25)
    assert sitting(monkeypatch, *paced) == 0
    assert "budget: 0 s" in capsys.readouterr().out
    found = read_json(tmp_path / "pace.json")
    assert list(found["by_method"]) == ["kd", "opd", "grkd-votes"]
    assert all(pace["seconds_per_step"] > 0 for pace in found["by_method"].values())
    assert not list((folder / "full").glob("pace/*"))
    assert not (folder / "full" / "train").exists()
    assert sitting(monkeypatch, "run", str(folder), "--seconds", "40", *common) == 0
    assert "6 final runs are left" in capsys.readouterr().out
    began: list[str] = []
    real = _on_policy_sitting.seconds_taken

    def slow(run: Path, job: Any) -> float | None:
        began.append(job.name)
        return 99.0 if real(run, job) else None  # so that the next seed does not fit

    monkeypatch.setattr(_on_policy_jobs, "seconds_taken", slow)
    assert sitting(monkeypatch, "run", str(folder), "--seconds", "90", *common) == 0
    assert sorted(set(began)) == ["grkd-votes-seed0", "kd-seed0", "opd-seed0"]
    assert "3 final runs are left" in capsys.readouterr().out
    monkeypatch.setattr(_on_policy_jobs, "seconds_taken", real)
    assert sitting(monkeypatch, "run", str(folder), *common) == 0
    assert "all final runs are there" in capsys.readouterr().out
    found = read_json(tmp_path / "on-policy-full.json")
    assert [one["budget_seconds"] for one in found["sittings"]] == [0.25] * 3
    monkeypatch.setattr(on_policy, "ROOT", tmp_path)
    monkeypatch.setattr(on_policy, "RESULTS", tmp_path)
    (tmp_path / "docs").mkdir()
    assert sitting(monkeypatch, "table") == 0
    page = (tmp_path / "docs" / "results-on-policy.md").read_text()
    assert "The time was chosen by a pace test of 0.3 s per method" in page
    assert "## Conclusion\n\nBy the fourth experiment, the newest of one:\n\n- **Choose `" in page


def test_the_slowest_method_gets_its_steps() -> None:
    found = {"by_method": {"kd": {"seconds_per_step": 0.05}, "grpo": {"seconds_per_step": 0.2}}}
    assert _on_policy_pace.budget(found, most=500.0) == 211.0
    assert _on_policy_pace.budget(found, most=200.7) == 200.0


def test_time_is_shared_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = on_policy.filled_in(folder, MIXED[1:], "mixed")
    monkeypatch.setattr(_on_policy_sitting.time, "monotonic", lambda: 100.0)
    options = argparse.Namespace(budget=None, processes=1, experiment="mixed")
    none: dict[str, Any] = {"sittings": [], "runs": {}}
    assert (
        _on_policy_sitting.budget_of(recipe, none, options, ends=100.0 + 12 * (30 + 11)) == 30.0
    )  # opd-mixed is extra
    assert _on_policy_sitting.budget_of(recipe, none, options, ends=200.0) == 20.0
    assert _on_policy_sitting.budget_of(recipe, none, options, ends=float("inf")) == 60.0
    kept = {"sittings": [{"budget_seconds": 27.0}, {}], "runs": {"kd-seed0": {}}}
    assert _on_policy_sitting.budget_of(recipe, kept, options, ends=float("inf")) == 27.0


def test_final_runs_have_equal_time_and_come_seed_by_seed(folder: Path) -> None:
    recipe = on_policy.filled_in(folder, TINY)
    trials = {
        f"{label}-trial{number}": {"value": value, "learning_rate": rate}
        for label, better in (("opd", 0.2), ("grkd-verifier", 0.3))
        for number, (rate, value) in enumerate(((1e-3, 0.2), (1e-2, better)))
    }
    assert on_policy.planned(recipe, {"opd-trial0": trials["opd-trial0"]}) == {}  # a trial is missing
    plan = on_policy.planned(recipe, trials)
    assert plan == {"opd": 1e-3, "grkd-verifier": 1e-2, "grkd-votes": 1e-2}  # the lower of two that are level
    both = replace(recipe, seeds=[0, 1])
    jobs = _on_policy_jobs.trial_jobs(both, {}, steps=4)[:1] + on_policy.final_jobs(
        both, plan, {"opd-seed0": {}}, budget=90.0, experiment=EXPERIMENTS["first"]
    )
    first, *left = sorted(jobs, key=lambda job: _on_policy_jobs.in_turn(both, job, EXPERIMENTS["first"]))
    assert (first.trial, first.recipe.training.steps, first.recipe.training.minutes) == (0, 4, None)
    assert {(job.recipe.training.steps, job.recipe.training.minutes) for job in left} == {(None, 1.5)}
    names = ["grkd-verifier-seed0", "grkd-votes-seed0", "opd-seed1", "grkd-verifier-seed1", "grkd-votes-seed1"]
    assert [job.name for job in left] == names  # what is cut off leaves whole seeds
