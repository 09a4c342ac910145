"""The on-policy experiment on a tiny model: equal time, sittings that go on, one file of results, a page."""

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _on_policy_starts, on_policy
from grkd import objectives
from grkd.files import read_json
from grkd.language.score import cached_splits
from grkd.models.load import load_language_model
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
    assert "## Targets" not in page
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


def test_the_second_look_shares_stored_responses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates are the recipe's; which prompts a method answers anew; long runs come last, and only with time left."""
    monkeypatch.setattr(on_policy, "LOOKS", {"mixed": replace(on_policy.LOOKS["mixed"], long_steps=3)})
    asked: dict[str, list[int]] = {}
    real = fresh_groups.answered_anew

    def noted(seeds: list[int], share: float) -> list[int]:
        asked.setdefault(str(share), []).append(len(seeds))
        return real(seeds, share)

    monkeypatch.setattr(fresh_groups, "answered_anew", noted)
    words = ["run", str(folder), "--look", "mixed", "--out", str(tmp_path), "--budget", "0.1", "--processes", "1"]
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
    jobs = on_policy.final_jobs(recipe, plan, {}, budget=30.0, look=on_policy.LOOKS["mixed"])
    alone = [job.method.label for job in jobs if job.recipe.responses.when == "before"]
    assert alone == ["kd", "grkd-stored", "kd-long", "grkd-stored-long"]


LONG = [*MIXED, "training.steps_per_generation=2", "methods=[{name: kd}, {name: grpo, label: grpo-teacher-kl, "
        "teacher_kl: 1.0, rankers: [verifier]}, {name: grkd, preset: responses}]"]  # fmt: skip


def test_the_third_look_goes_on_from_one_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GRPO's groups are its own, grkd's partly stored; a second sitting with another start is refused."""
    recipe = on_policy.filled_in(folder, LONG, "long")
    jobs = on_policy.final_jobs(recipe, on_policy.planned(recipe, {}), {}, budget=9.0, look=on_policy.LOOKS["long"])
    asked = {job.method.label: (job.recipe.responses.when, job.recipe.responses.stored_share) for job in jobs}
    assert asked == {
        "kd": ("before", 0.75), "grpo-teacher-kl": ("in_training", 0.0), "grkd": ("in_training", 0.75)
    }  # fmt: skip
    words = ["run", str(folder), "--look", "long", "--budget", "0.1", "--processes", "1", "--set", *LONG]
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


def test_the_fourth_look_mixes_with_and_without_pairs(folder: Path) -> None:
    """Five methods of three seeds; of grkd and kd-mixed a quarter of the prompts is answered again."""
    recipe, look = (
        on_policy.filled_in(folder, [each for each in MIXED if "seeds" not in each], "kept"),
        on_policy.LOOKS["kept"],
    )
    jobs = on_policy.final_jobs(recipe, on_policy.planned(recipe, {}), {}, budget=9.0, look=look)
    assert len(jobs) == 15
    asked = {job.method.label: (job.recipe.responses.when, job.recipe.responses.stored_share) for job in jobs}
    mixed = ("in_training", 0.75)
    assert asked == {
        "kd": ("before", 0.75), "opd": mixed, "grpo-teacher-kl": ("in_training", 0.0), "kd-mixed": mixed, "grkd": mixed
    }  # fmt: skip
    share = {each.label: objectives.load(each.name, **each.options).on_policy for each in recipe.methods}
    assert share["kd-mixed"] == 0.25
    assert share["opd"] == 1.0
    assert cached_splits(recipe, shared=True) == ["train", "heldout"]


def test_the_pilot_answers_no_test_question(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, look = on_policy.filled_in(folder, MIXED, "pilot"), on_policy.LOOKS["pilot"]
    jobs = on_policy.final_jobs(recipe, on_policy.planned(recipe, {}), {}, budget=9.0, look=look)
    asked = {job.method.label: (job.recipe.responses.when, job.recipe.responses.stored_share) for job in jobs}
    stored = dict.fromkeys(("kd", "kd-t1"), ("before", 0.75))
    mixed = dict.fromkeys(
        ("kd-mixed", "opd-mixed", "grkd-forward", "grkd-light", "grkd-reverse"), ("in_training", 0.75)
    )
    assert asked == {**stored, **mixed, "grkd-eighth": ("in_training", 0.875)}
    (folder / "test.jsonl").rename(folder / "hidden.jsonl")
    try:
        monkeypatch.setattr(
            on_policy, "write_questions", lambda _: shutil.copy(folder / "validation.jsonl", folder / "curve.jsonl")
        )
        words = ["run", str(folder), "--look", "pilot", "--out", str(tmp_path), "--budget", "0.1", "--processes", "1"]
        kept = [each for each in recipe.methods if each.label in ("kd", "grkd-eighth")]
        real = on_policy.filled_in
        monkeypatch.setattr(on_policy, "filled_in", lambda *given: replace(real(*given), methods=kept))
        assert sitting(monkeypatch, *words, "--set", *MIXED) == 0
    finally:
        (folder / "hidden.jsonl").rename(folder / "test.jsonl")
    found = read_json(tmp_path / "on-policy-pilot.json")
    assert [one.rpartition("/")[0] for one in found["questions"]] == ["validation"] * 6
    on_policy.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "exact match on 6 validation questions" in page
    assert "| grkd-eighth | 1 |" in page
    assert "**Taken: `kd`, `grkd-eighth`.**" in page
    assert "### Targets" not in page


def test_time_is_shared_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = on_policy.filled_in(folder, MIXED[1:], "mixed")
    monkeypatch.setattr(on_policy.time, "monotonic", lambda: 100.0)
    options = argparse.Namespace(budget=None, processes=1, look="mixed")
    none: dict[str, Any] = {"sittings": [], "runs": {}}
    assert on_policy.budget_of(recipe, none, options, ends=100.0 + 12 * (30 + 11)) == 30.0  # opd-mixed is extra
    assert on_policy.budget_of(recipe, none, options, ends=200.0) == 20.0
    assert on_policy.budget_of(recipe, none, options, ends=float("inf")) == 60.0
    kept = {"sittings": [{"budget_seconds": 27.0}, {}], "runs": {"kd-seed0": {}}}
    assert on_policy.budget_of(recipe, kept, options, ends=float("inf")) == 27.0


def test_starts_are_made_from_what_was_prepared(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLLM2", str(tiny_teacher))
    monkeypatch.setattr(_on_policy_starts, "SIDES", {"student": ([0], 1e-2), "teacher": (None, 1e-2)})
    lines = [{"id": f"s/{n}", "prompt": f"w{n % 6} w1", "completion": f"w{n % 3}"} for n in range(12)]
    (tmp_path / "start.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _on_policy_starts.prepare_starts(tmp_path)
    items = read_json(tmp_path / "start" / "items.json")
    assert [copies for *_, copies in items] == [2] * 6
    _on_policy_starts.make_starts(tmp_path, batch_size=4)
    whole = load_language_model(str(tiny_teacher), dtype=torch.float32).config.num_hidden_layers
    for side, layers in (("student", 1), ("teacher", whole)):
        made = load_language_model(str(_on_policy_starts.start_of(tmp_path, side)), dtype=torch.float32)
        assert made.config.num_hidden_layers == layers
        spent = read_json(_on_policy_starts.start_of(tmp_path, side).parent / "training.json")
        assert spent["steps"] == 9  # three epochs of twelve, four at a time
    monkeypatch.setattr(_on_policy_starts, "load_language_model", None)
    _on_policy_starts.make_starts(tmp_path)  # nothing twice


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
    jobs = on_policy.trial_jobs(both, {}, steps=4)[:1] + on_policy.final_jobs(
        both, plan, {"opd-seed0": {}}, budget=90.0, look=on_policy.LOOKS["first"]
    )
    first, *left = sorted(jobs, key=lambda job: on_policy.in_turn(both, job, on_policy.LOOKS["first"]))
    assert (first.trial, first.recipe.training.steps, first.recipe.training.minutes) == (0, 4, None)
    assert {(job.recipe.training.steps, job.recipe.training.minutes) for job in left} == {(None, 1.5)}
    names = ["grkd-verifier-seed0", "grkd-votes-seed0", "opd-seed1", "grkd-verifier-seed1", "grkd-votes-seed1"]
    assert [job.name for job in left] == names  # what is cut off leaves whole seeds
