"""`grkd compare` on a tiny language model: the same search and steps for all, resumed run by run, failures shown."""

import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pytest

from grkd import cli, recipe
from grkd.data.language import Group, Item
from grkd.data.prompts import Example
from grkd.language import compare as compare_language
from grkd.language import shared_questions, stages
from grkd.language.compare import split_groups
from grkd.language.context import LanguageContext
from grkd.language.models import LanguageModels
from grkd.metrics.registry import OF_RANKS
from grkd.recipe import LanguageRecipe
from grkd.run.folder import RunFolder

SEARCH = [
    "search.trials=2",
    "search.learning_rate=[1e-6,5e-3]",
    "search.metric=soft_cross_entropy_nats",
    "training.epochs=2",
]


def compare(recipe: Path, *words: str) -> int:
    return cli.main(["compare", str(recipe), *SEARCH, *words])


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def folder(tiny_recipe: Path) -> Path:
    return tiny_recipe.parent / "run"


def test_every_method_is_tuned_alike_and_run_with_every_seed(
    tiny_recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tiny_recipe, "--methods", "kd,ce", "--seeds", "2") == 0
    search = load(folder / "search.json")
    assert [(line["method"], line["settings"]["learning_rate"]) for line in search] == [
        (method, rate) for method in ("kd", "ce") for rate in (1e-6, 5e-3)
    ]
    assert len({line["value"] for line in search}) == 4
    results = load(folder / "results.json")
    assert {(row["method"], row["seed"]) for row in results["rows"] if row["seed"] is not None} == {
        (method, seed) for method in ("kd", "ce") for seed in (0, 1)
    }
    steps = {row["steps"] for row in results["rows"] if row["seed"] is not None}
    assert len(steps) == 1
    for method in ("kd", "ce"):  # the final runs took the better rate
        best = min((line for line in search if line["method"] == method), key=lambda line: line["value"])
        inputs = load(folder / "train" / f"{method}-seed1" / "manifest.json")["inputs"]
        assert inputs["training"]["learning_rate"] == best["settings"]["learning_rate"]
    assert not list((folder / "search").rglob("checkpoints")), "a trial keeps its metrics alone"
    found = set(load(folder / "search" / "kd-trial0" / "metrics.json"))  # one response a prompt here
    assert found == {name for name in OF_RANKS if not name.startswith("response_")}
    printed = capsys.readouterr().out
    assert "kd" in printed
    assert "±" in printed


def test_trials_may_be_shorter_than_final_runs(tiny_recipe: Path, folder: Path) -> None:
    words = ["--methods", "ce", "--seeds", "1", "search.trials=1"]
    assert compare(tiny_recipe, *words, "training.epochs=4") == 0
    first, run = folder / "search" / "ce-trial0", folder / "train" / "ce-seed0" / "training.json"
    steps = load(run)["steps"]
    assert load(first / "training.json")["steps"] == steps
    assert compare(tiny_recipe, *words, "training.epochs=4", "search.steps_share=0.5") == 0
    short = load(first / "manifest.json")["inputs"]["training"]
    assert load(first / "training.json")["steps"] == short["steps"] == steps / 2  # warm-up and decay are its own
    assert load(run)["steps"] == steps


def test_goes_on_run_by_run(tiny_recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = compare_language.trained_student, []

    def killed(*words: Any, **options: Any) -> Any:
        seen.append(options["description"])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(compare_language, "trained_student", killed)
    assert compare(tiny_recipe, "--methods", "kd,ce", "--seeds", "1") == 130
    assert compare(tiny_recipe, "--methods", "kd,ce", "--seeds", "1") == 0
    assert seen == [f"search {name}" for name in ("kd-trial0", "kd-trial1", "ce-trial0", "ce-trial0", "ce-trial1")]


def test_a_method_that_fails_is_shown_and_the_rest_goes_on(
    tiny_recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.evaluate_student

    def broken(context: Any, name: str, trained: str | None) -> Path:
        if name == "kd-seed0":
            raise RuntimeError("no luck")
        return real(context, name, trained)

    monkeypatch.setattr(stages, "evaluate_student", broken)
    assert compare(tiny_recipe, "--methods", "kd,ce", "--seeds", "1") == 1
    results = load(folder / "results.json")
    assert results["status"] == {"kd-seed0": "failed: RuntimeError: no luck", "ce-seed0": "done"}
    assert {row["method"] for row in results["rows"]} >= {"ce"}


def test_figures_and_searches_of_older_settings_are_not_shown(
    tiny_recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--methods", "kd,ce", "--seeds", "1", "training.epochs=1", "evaluation.questions=null"]
    assert compare(tiny_recipe, *words) == 0
    assert (folder / "search.json").exists()
    real = stages.train_student

    def broken(context: Any, method: Any, seed: int) -> Path:
        if method.label == "kd":
            raise RuntimeError("no luck")
        return real(context, method, seed)

    monkeypatch.setattr(stages, "train_student", broken)
    changed = [*words, "search=null", "training.learning_rate=2e-3"]
    assert cli.main(["compare", str(tiny_recipe), *changed]) == 1
    results = load(folder / "results.json")
    assert results["status"]["kd-seed0"].startswith("failed: RuntimeError: no luck")
    assert (folder / "evaluate" / "kd-seed0" / "metrics.json").exists()
    assert {row["method"] for row in results["rows"]} == {"before", "ce"}
    assert not (folder / "search.json").exists()


def test_several_processes_give_the_same_metrics(
    tiny_recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes are forks here; tests/run/test_jobs.py starts new ones."""
    monkeypatch.setattr("grkd.run.jobs.get_context", lambda _: get_context("fork"))
    assert compare(tiny_recipe, "--methods", "kd,grkd", "--seeds", "1") == 0
    alone = load(folder / "results.json")["rows"]
    other = folder.with_name("other")
    assert compare(tiny_recipe, f"output={other}", "--methods", "kd,grkd", "--seeds", "1", "--processes", "2") == 0
    for row, found in zip(alone, load(other / "results.json")["rows"], strict=True):
        assert (found["method"], found["metric"]) == (row["method"], row["metric"])
        assert found["value"] == pytest.approx(row["value"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "kd,nope"], "unknown method 'nope'"),
        (["--methods", "kd,kd"], "--methods: expected different names"),
        (["--seeds", "0"], "--seeds must be from 1 to 1000, got 0"),
        (["search.metric=accuracy"], "search.metric: unknown metric 'accuracy'; available: "),
        (["search.metric=exact_match"], "search.metric: unknown metric 'exact_match'"),
    ],
)
def test_mistakes_are_one_line(
    tiny_recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert compare(tiny_recipe, "--methods", "ce", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (folder / "search").exists()  # before anything is trained


def test_a_mistake_leaves_what_an_earlier_comparison_wrote(tiny_recipe: Path, folder: Path) -> None:
    assert compare(tiny_recipe, "--methods", "ce", "--seeds", "1", "training.epochs=1") == 0
    kept = (folder / "recipe.yaml").read_text()
    assert compare(tiny_recipe, "--methods", "ce", f"data.train={folder / 'nowhere.jsonl'}") == 2
    assert (folder / "recipe.yaml").read_text() == kept


def test_validation_groups_depend_on_their_ids_alone() -> None:
    groups = [Group(id=f"g{number}", items=(), teacher_scores=(), sources=()) for number in range(20)]
    fit, validation = split_groups(groups, 0.2)
    assert len(validation) == 4
    again, same = split_groups(groups[::-1], 0.2)
    assert {group.id for group in validation} == {group.id for group in same}
    assert {group.id for group in fit} == {group.id for group in again}
    assert [len(part) for part in split_groups(groups[:2], 0.01)] == [1, 1]


def test_validation_has_no_turn_of_a_conversation_that_is_learnt() -> None:
    """Nor a prompt that is: both would reward what is learnt by heart."""
    groups = [
        Group(id=f"g{number}", items=(), teacher_scores=(), sources=(), conversation=number // 4)
        for number in range(40)
    ]
    fit, validation = split_groups(groups, 0.2)
    assert len({group.conversation for group in validation}) == 2
    assert len(validation) == 8
    assert {group.conversation for group in fit}.isdisjoint({group.conversation for group in validation})
    # One conversation alone: its turns are all there is.
    assert [len(part) for part in split_groups(groups[:4], 0.3)] == [3, 1]


@pytest.mark.parametrize("section", ["search", "evaluation"])
def test_questions_that_are_training_prompts_are_warned_of(
    section: Literal["search", "evaluation"],
    tmp_path: Path,
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They reward answers learnt by heart, by the teacher and by the students."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in ("abc", "xyz")))
    item = Item(id="a", prompt_ids=[97, 98, 99], response_ids=[1])
    group = Group(id="a", items=(item,), teacher_scores=(0.0,), sources=("data",))

    def encode(_: Any, example: Example, **__: Any) -> list[int]:
        return list(example.prompt.encode()) if example.template_options == {"enable_thinking": False} else []

    monkeypatch.setattr(shared_questions, "encode_prompt", encode)
    options = "data.chat_template_kwargs={enable_thinking: false}"  # which training prompts are written with, too
    found = recipe.read(tiny_recipe, [f"{section}={{questions: {path}}}", options])
    assert isinstance(found, LanguageRecipe)
    monkeypatch.setattr(LanguageModels, "tokenizer", None)
    run = RunFolder(tmp_path / "run")
    shared_questions.say_shared_questions(LanguageContext.open(found, run), section, lambda: [group], harm="so")
    assert f"{section}.questions: 1 of 2 are also prompts of data.train" in " ".join(capsys.readouterr().err.split())
