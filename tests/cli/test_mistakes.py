"""A user's mistake: one clear line, exit status 2, nothing half-written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from grkd import cli
from grkd.pipeline import run as pipeline


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status and the last line of standard error."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    lines = capsys.readouterr().err.strip().splitlines()
    return status, lines[-1] if lines else ""


def refused(capsys: pytest.CaptureFixture[str], recipe: Path, *changes: str) -> str:
    """The one line of a refused run, after which nothing of the run is left."""
    status, line = run(capsys, "run", recipe, *changes)
    assert status == 2, line
    assert line.startswith("grkd: error: ")
    assert not (recipe.parent / "run").exists()
    return line


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("methods=[grdk]", ["methods", "grdk", "grkd"]),
        ("methods=[{name: grkd, pairs.tau: 0}]", ["tau", "above 0"]),
        ("methods=[{name: grkd, pairs.tau: -1.0}]", ["tau", "above 0"]),
        ("methods=[{name: kd, temprature: 2}]", ["temprature", "temperature"]),
        ("training.learning_rat=1", ["learning_rat", "learning_rate"]),
        ("training.learning_rate=fast", ["learning_rate", "number"]),
        ("training.extra.no_such_field=1", ["no_such_field"]),
        ("methods=[{name: grkd, pairs.group: sample, pairs.group_size: 400}]", ["group_size 400", "40 candidates"]),
        ("student.layers=[0, 7]", ["7"]),
        ("student={config: {no_such: 3}}", ["no_such"]),
        ("data.train=absent.jsonl", ["absent.jsonl"]),
        ("data.heldout=absent.jsonl", ["absent.jsonl"]),
        ("data.max_prompt_tokens=1", ["data", "max_prompt_tokens"]),
        ("teacher.model=./absent", ["absent"]),
        ("responses.source=data", ["completion"]),
    ],
)
def test_bad_setting(capsys: pytest.CaptureFixture[str], tiny_recipe: Path, change: str, parts: list[str]) -> None:
    line = refused(capsys, tiny_recipe, change)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no prompts"]),
        ('{"prompt": "w1"}\n{"prompt": \n', ["line 2", "JSON"]),
        ('{"prompt": "w1"}\n[1]\n', ["line 2"]),
        ('{"prompt": "w1"}\n{"question": "w2"}\n', ["line 2", "prompt"]),
    ],
)
def test_bad_data_is_named_by_line(
    capsys: pytest.CaptureFixture[str], tiny_recipe: Path, text: str, parts: list[str]
) -> None:
    path = tiny_recipe.parent / "bad.jsonl"
    path.write_text(text)
    line = refused(capsys, tiny_recipe, f"data.train={path}")
    for part in ["bad.jsonl", *parts]:
        assert part in line


@pytest.mark.parametrize(
    ("word", "told"),
    [("rnu", "no command 'rnu'; did you mean 'run'?"), ("evaluate", "did you mean 'eval'?"), ("xyzzy", "choose from")],
)
def test_misspelt_command(capsys: pytest.CaptureFixture[str], word: str, told: str) -> None:
    status, line = run(capsys, word, "recipe.yaml")
    assert status == 2
    assert told in line


def test_missing_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, line = run(capsys, "run", tmp_path / "none.yaml")
    assert (status, "none.yaml" in line) == (2, True)


def test_gpu_asked_for_where_there_is_none(
    capsys: pytest.CaptureFixture[str], tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device" in refused(capsys, tiny_recipe, "device=cuda")


def test_tokenizers_that_differ(capsys: pytest.CaptureFixture[str], tiny_recipe: Path, tiny_teacher: Path) -> None:
    student = tiny_recipe.parent / "student"
    student.mkdir()
    for file in tiny_teacher.iterdir():
        (student / file.name).write_bytes(file.read_bytes())
    content: Any = json.loads((student / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (student / "tokenizer.json").write_text(json.dumps(content))
    assert PreTrainedTokenizerFast.from_pretrained(student).convert_tokens_to_ids("w1") == vocabulary["w1"]
    line = refused(capsys, tiny_recipe, f"student={{model: {student}}}")
    assert "w1" in line


def test_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tiny_recipe: Path) -> None:
    blocked = tiny_recipe.parent / "file"
    blocked.write_text("")
    status, line = run(capsys, "run", tiny_recipe, f"output={blocked / 'run'}")
    assert status == 2
    assert "cannot write" in line


def test_full_disk(capsys: pytest.CaptureFixture[str], tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        with Path("/dev/full").open("w") as stream:
            stream.write("x" * 100_000)
        return 0

    monkeypatch.setattr(pipeline, "run", full)
    status, line = run(capsys, "run", tiny_recipe)
    assert status == 2
    assert "disk is full" in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["report", "x" * 5000], "File name too long"),
        (["cache", "build", "tiny.yaml", "cache", "--temperature", "inf"], "--temperature must be above 0 and at most"),
        (["cache", "build", "tiny.yaml", "cache", "--entries", "1"], "--entries must be 2 or more, got 1"),
        (["cache", "build", "tiny.yaml", "/dev/null/x"], "FOLDER: cannot write to /dev/null/x: /dev/null is a file"),
        (["cache", "build", "tiny.yaml", "cache", "data.train=absent.jsonl"], "absent.jsonl: no such file"),
        (["groups", "a\0b"], "an argument holds a NUL character"),
        (["methods", "x" * 3000], "unknown method"),
        (["methods", ""], "unknown method ''"),
        (["compare", "tiny.yaml", "--minutes", "nan"], "--minutes must be a number above 0"),
        (["compare", "tiny.yaml", "--check", "--methods", "nope"], "unknown method 'nope'"),
        (["run", "tiny.yaml", "search={options: {dkd: {beta: [1]}}}"], "no method of the recipe has this label"),
        (["run", "tiny.yaml", "search={options: {kd: {temperature: []}}}"], "search.options.kd.temperature: no values"),
        (["run", "tiny.yaml", "search={options: {kd: {temperature: [0]}}}"], "search.options.kd: kd: temperature must"),
        (
            ["run", "tiny.yaml", "training.extra={adam_beta1: 1}"],
            "adam_beta1: expected a number of at least 0 and below",
        ),
        (["run", "tiny.yaml", "teacher.revision=main"], "teacher.revision: "),
        (["run", "tiny.yaml", "responses.max_new_tokens=64"], "leave no room for a prompt in the context of 64"),
        (["run", "tiny.yaml", "methods=[{name: kd, temperature: 1e300}]"], "temperature: must be at most 1e+09"),
        (["run", "tiny.yaml", "methods=[{name: kd, temprature: 2}]"], "did you mean 'temperature'?"),
        (
            ["run", "tiny.yaml", "methods=[{name: kd, temprature: 2}, {name: grkd, pairs.weight: 1}]", "seeds=[]"],
            "temprature: unknown key; did you mean 'temperature'?",
        ),
    ],
)
def test_every_mistake_is_one_short_line(
    capsys: pytest.CaptureFixture[str], tiny_recipe: Path, words: list[str], part: str
) -> None:
    status, line = run(capsys, *(tiny_recipe if word == "tiny.yaml" else word for word in words))
    assert status == 2
    assert part in line
    assert len(line) < 400
    assert not (tiny_recipe.parent / "run").exists()


def test_second_process_in_the_same_folder(capsys: pytest.CaptureFixture[str], tiny_recipe: Path) -> None:
    from filelock import FileLock

    folder = tiny_recipe.parent / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        status, line = run(capsys, "run", tiny_recipe)
    assert status == 2
    assert "another grkd process" in line


def test_an_error_of_ours_is_not_hidden(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", str(tiny_recipe)])


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_teacher_that_has_learnt_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    status, printed = run(capsys, command, recipe, f"output={tmp_path / 'run'}", "teacher={model: mlp}", "search=null")
    assert (status, "teacher: mlp has learnt nothing yet; add training" in printed) == (2, True)


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ("[ce, dpo]", "dpo: a method on whole responses cannot train a classifier"),
        ("[ce, gkd]", "gkd: a classifier writes no responses; set on_policy_fraction: 0"),
    ],
)
def test_a_method_that_no_classifier_can_follow_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: str, line: str
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    status, printed = run(capsys, "run", recipe, f"output={tmp_path / 'run'}", f"methods={methods}", "search=null")
    assert (status, line in printed) == (2, True)
    assert not list(tmp_path.rglob("prepare"))


def test_an_interrupt_within_an_import_is_an_interrupt(
    capsys: pytest.CaptureFixture[str], tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' lazy modules turn it into a module that is missing."""

    def importing(*_: object) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'") from error

    monkeypatch.setattr(pipeline, "run", importing)
    assert run(capsys, "run", tiny_recipe) == (130, "grkd: interrupted; the same command resumes")


def test_a_method_that_nothing_teaches_ends_the_run_before_another_is_trained(
    capsys: pytest.CaptureFixture[str], tiny_recipe: Path
) -> None:
    tied = tiny_recipe.with_name("tied.jsonl")
    lines = ({"prompt": f"w{n}", "responses": ["w1", "w2"], "teacher_scores": [1, 1]} for n in range(8))
    tied.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        f"data.train={tied}",
        "responses={source: data, n: 2, max_new_tokens: 6}",
        "score={reward: data}",
        "methods=[sft, dpo]",
    ]
    status, line = run(capsys, "run", tiny_recipe, *words)
    assert status == 2
    assert "methods: dpo compares the responses of a prompt, and no prompt has two with different scores" in line
    assert not [name for name in ("reference", "evaluate", "train") if (tiny_recipe.parent / "run" / name).exists()]
