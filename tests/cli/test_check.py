"""`grkd run --check`: what can be known before time is spent is said then, by `grkd run` too; --deep runs one step."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from grkd import cli
from grkd.language.curve import ExactMatchCurve
from grkd.models import load
from grkd.training import DistillationTrainer

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.yaml"
NETWORKS = """
import torch
from os import getcwd

def broken(classes):
    raise ZeroDivisionError("division by zero")

def no_module(classes):
    return "a text"

class Wrong(torch.nn.Module):
    def __init__(self, input_shape):
        super().__init__()
        self.layer = torch.nn.Linear(64, 3)
    def forward(self, inputs):
        return self.layer(inputs.flatten(1))
"""


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status, and standard error."""
    status = cli.main([str(word) for word in words])
    return status, capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], recipe: Path, *changes: str, output: Path) -> str:
    """The one line that both `run` and `run --check` end with, before a model is loaded or anything is written."""
    status, line = said(capsys, "run", recipe, "--check", f"output={output}", *changes)
    assert (status, line.count("\n")) == (2, 1), line
    assert len(line) < 400
    assert (status, line) == said(capsys, "run", recipe, f"output={output}", *changes)
    assert not output.exists()
    return line.removeprefix("grkd: error: ").strip()


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a language model, and training, are errors."""

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", fails)
    monkeypatch.setattr(DistillationTrainer, "train", fails)


QUESTIONS = "evaluation.questions"


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ([f"{QUESTIONS}=absent.jsonl"], "absent.jsonl"),
        ([f"{QUESTIONS}=broken.jsonl"], "broken.jsonl, line 2: answer must be text or a number"),
        ([f"{QUESTIONS}=deep.jsonl"], "deep.jsonl, line 1: not JSON (nested too deeply)"),
        (["data.train=absent.jsonl"], "absent.jsonl"),
        (["data.heldout=deep.jsonl"], "deep.jsonl, line 1: not JSON (nested too deeply)"),
        (["evaluation.top_k=41"], "evaluation.top_k: 41 is above the teacher's vocabulary of 40 tokens"),
        (["student={layers: [0, 3]}"], "student.layers: the teacher has 3 layers, numbers 0 to 2"),
        (["student.lora={target_modules: [q_prj]}"], "no module of the model is named ['q_prj']"),
        (["student.lora={target_modules: nothing.*}"], "no module of the model is named nothing.*"),
        (["student={config: {hidden_siz: 8}}"], "no field 'hidden_siz'; did you mean 'hidden_size'?"),
        (["student={config: {num_hidden_layers: 1000000000}}"], "num_hidden_layers is 1000000000; at most 1000"),
        (["student={config: {hidden_size: 8000000000}}"], "student.config: "),
        (["student={config: {vocab_size: 100000000000}}"], "GiB in float32; this machine has"),
        (["methods=[rkd]"], "rkd: the method reads a classifier's features"),
        (["methods=[{name: grkd, pairs.group: sample, pairs.group_size: 400}]"], "group_size 400"),
        (["training.report_to=nope"], "training.report_to: unknown tracker 'nope'; known: none, "),
        (["training.extra={adam_beta2: much}"], "training.extra.adam_beta2: expected float, got 'much'"),
        (["training.extra={optim: nope}"], "training.extra.optim: expected one of adamw_torch"),
        (["training.extra={adam_beta: 0.9}"], "no such field; did you mean 'adam_beta"),
        (["teacher.model=./absent"], "absent: no such folder"),
        (["responses.source=data"], "has no completion or responses"),
        (["responses.n=2", "score.rankers=[{name: function, function: 'json:loads'}]"], "json is in Python's standard"),
        (["responses.n=2", "score.rankers=[{name: function, function: 'absent:f'}]"], "there is no module 'absent'"),
        (["responses.n=2", "score.rankers=[{name: reward_model, model: ./absent}]"], "absent: no such folder"),
        (["responses.n=2", "score.rankers=[{name: judge, url: nope, model: x}]"], "judge: a URL looks like"),
        (["responses.n=2", "score.rankers=[{name: judge, url: 'https://a.b', model: x}]"], "judge: no key for"),
        (["responses.n=2", "score.rankers=[{name: verifier, kind: nope}]"], "kind should be 'answer', 'math'"),
        (["responses.n=2", "score.rankers=[verifier]"], "a ranker reads the column 'answer', and no record of"),
        (
            [
                "responses={n: 2, max_new_tokens: 6, when: in_training}",
                "methods=[{name: dpo, rankers: [{name: judge, url: nope, model: x}]}]",
            ],
            "judge: a URL looks like",
        ),
    ],
)
def test_a_language_recipe_is_refused_before_a_model_is_loaded(
    tiny_recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    Path("broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "a"}\n')
    Path("deep.jsonl").write_text("[" * 100_000 + "\n")
    assert part in refused(capsys, tiny_recipe, *changes, output=tiny_recipe.parent / "run")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["student={model: networks:broken}"], "networks:broken: building it failed: ZeroDivisionError"),
        (["student={model: networks:no_module}"], "networks:no_module: gave a str, not an nn.Module"),
        (["student={model: networks:Wrong}"], "gives scores of shape (2, 3) for 2 inputs, the data needs (2, 10)"),
        (["student={model: os:system, options: {command: touch x}}"], "os is in Python's standard library"),
        (["student={model: networks:getcwd}"], "getcwd is from Python's standard library"),
        (["student={model: networks:absent}"], "networks has no 'absent'"),
        (["student={model: mlp, options: {hiden: [3]}}"], "unknown option 'hiden'"),
        (["student={model: mlp, weights: absent.safetensors}"], "absent.safetensors: no such file of weights"),
        (["teacher.training.report_to=nope"], "teacher.training.report_to: unknown tracker 'nope'"),
        (["evaluation.groups={curly: [3, 6]}"], "evaluation.groups.curly"),
        (["methods=[dpo]"], "dpo: a method on whole responses cannot train a classifier"),
        (["methods=[{name: grkd, pairs.group: top, pairs.group_size: 11}]"], "group_size 11"),
    ],
)
def test_a_classifier_recipe_is_refused_before_the_teacher_is_trained(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("networks.py").write_text(NETWORKS)
    assert part in refused(capsys, DIGITS, *changes, output=tmp_path / "run")


@pytest.mark.usefixtures("no_weights")
def test_an_output_that_is_a_file_is_refused(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tiny_recipe.parent / "file"
    blocked.write_text("")
    status, line = said(capsys, "run", tiny_recipe, "--check", f"output={blocked / 'run'}")
    assert (status, f"cannot write to {blocked / 'run'}: {blocked} is a file" in line) == (2, True)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("change", ["student={config: {num_hidden_layers: 1}}", "student.lora={r: 2}", "title=x"])
def test_a_sound_recipe_is_printed_and_nothing_written(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert cli.main(["run", str(tiny_recipe), "--check", change]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["task"] == "language_model"
    assert sorted(path.name for path in tiny_recipe.parent.iterdir()) == ["tiny.yaml"]


def test_a_check_does_not_touch_the_random_state(tiny_recipe: Path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert cli.main(["run", str(tiny_recipe), "--check", "student={config: {num_hidden_layers: 1}}"]) == 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_deep_check_runs_one_step_of_every_method_and_writes_nothing(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    train = DistillationTrainer.train

    def counted(trainer: DistillationTrainer, *arguments: object, **options: object) -> object:
        ended = train(trainer, *arguments, **options)
        steps.append(trainer.state.global_step)
        return ended

    monkeypatch.setattr(DistillationTrainer, "train", counted)
    questions = tiny_recipe.parent / "questions.jsonl"
    questions.write_text(json.dumps({"question": "w1", "answer": "w2"}) + "\n")
    words = ["responses.n=2", "methods=[kd, dpo]", "seeds=[0, 1]", f"{QUESTIONS}={questions}"]
    words += ["training={minutes: 0.1, batch_size: 4}", f"evaluation.curve_questions={questions}"]
    monkeypatch.setattr(ExactMatchCurve, "on_train_begin", None)  # no questions are asked
    status, text = said(capsys, "run", tiny_recipe, "--check", "--deep", *words)
    assert (status, steps) == (0, [1, 1])
    assert "kd-seed0: one step works" in text
    assert "dpo-seed0: one step works" in text
    assert sorted(path.name for path in tiny_recipe.parent.iterdir()) == ["questions.jsonl", "tiny.yaml"]


def test_a_deep_check_of_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"output={tmp_path / 'run'}", "methods=[kd]", "search=null", f"lockstep.teachers={tmp_path / 'shared'}"]
    status, text = said(capsys, "run", DIGITS, "--check", "--deep", *words)
    assert (status, "kd-seed0: one step works" in text) == (0, True)
    assert not list(tmp_path.iterdir())


def test_a_deep_check_of_many_classes_has_examples_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"word{number} {copy},c{number}" for number in range(260) for copy in range(3)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    words = [f"output={tmp_path / 'run'}", "methods=[kd]", "search=null"]
    words += [f"data={{train: {tmp_path / 'data.csv'}, features: tfidf, heldout_fraction: 0.01}}"]
    status, text = said(capsys, "run", DIGITS, "--check", "--deep", *words)
    assert (status, "kd-seed0: one step works" in text) == (0, True)


def test_a_method_that_fails_fails_the_deep_check(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no step")

    monkeypatch.setattr(DistillationTrainer, "train", fails)
    status, text = said(capsys, "run", tiny_recipe, "--check", "--deep", "methods=[kd]")
    assert (status, "kd-seed0: failed: RuntimeError: no step" in text) == (1, True)


def test_deep_belongs_to_check(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "run", tiny_recipe, "--deep") == (
        2,
        "grkd: error: --deep needs --check: grkd run RECIPE --check --deep\n",
    )
