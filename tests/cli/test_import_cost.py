"""What a command imports: help and a mistake in a recipe must not wait for PyTorch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "accelerate", "scipy", "sklearn", "matplotlib", "pyarrow", "triton"}
RECIPE = "task: classifier\noutput: run\nteacher: {model: mlp}\nstudent: {model: mlp}\ndata: {dataset: digits}\n"


def imported(*words: str) -> tuple[int, str, set[str]]:
    """Exit status and standard error of a Python, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)
    modules = set(re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE))
    said = "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("import time:"))
    return ended.returncode, said, modules


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["eval", "--help"], ["methods"]], ids=" ".join)
def test_help_needs_none_of_the_heavy_packages(words: list[str]) -> None:
    status, _, modules = imported("-m", "grkd", *words)
    assert status == 0
    assert "grkd" in modules
    assert not packages(modules) & HEAVY


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("methds: [kd]", "methods"),
        ("methods: [grdk]", "grkd"),
        ("methods: [{name: kd, label: before}]", "before"),
        ("methods: [kd]\ntraining: {learning_rat: 1}", "learning_rate"),
        ("methods: [kd]\nseeds: []", "seeds"),
        ("methods: [kd]\ntraining: {steps: 3, epochs: 2}", "epochs"),
    ],
)
def test_nor_does_a_mistake_in_a_recipe(tmp_path: Path, line: str, part: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + line + "\n")
    status, said, modules = imported("-m", "grkd", "run", str(recipe))
    assert status == 2
    assert part in said
    assert len(said.splitlines()) == 1
    assert not packages(modules) & HEAVY


def test_the_losses_need_torch_alone() -> None:
    _, _, alone = imported("-c", "import torch")
    status, said, modules = imported("-c", "import grkd; grkd.GRKDLoss, grkd.losses, grkd.groups, grkd.schedules")
    assert (status, said) == (0, "")
    assert "grkd.objectives.methods.grkd" in modules
    assert "torch._dynamo" not in modules
    assert packages(modules) - packages(alone) <= {"grkd", "jaxtyping"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("command", "change", "part"),
    [
        ("run --check", "training.report_to=nope", "training.report_to: unknown tracker 'nope'"),
        ("run", "teacher.training={report_to: nope}", "teacher.training.report_to: unknown tracker 'nope'"),
        ("run --check", "training.extra={adam_beta: 0.9}", "did you mean 'adam_beta"),
        ("compare", "training.extra={adam_beta2: much}", "training.extra.adam_beta2: expected float, got 'much'"),
        ("run --check", "training.report_to=clearml", "training.report_to: clearml is not installed"),
        ("compare --check", "training.extra={optim: adamw_trch}", "did you mean 'adamw_torch'"),
        ("run --check", "training.extra={optim: galore_adamw}", "galore_adamw needs the package galore_torch"),
    ],
)
def test_a_mistake_in_what_goes_to_transformers_needs_torch_alone(
    tmp_path: Path, command: str, change: str, part: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "methods: [kd]\n")
    status, said, modules = imported("-m", "grkd", *command.split(), str(recipe), change)
    assert status == 2
    assert part in said
    assert len(said.splitlines()) == 1
    assert packages(modules) & HEAVY <= {"torch"}  # which the recipe's methods need


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("student={model: mlp, options: {hiden: [3]}}", "mlp: unknown option 'hiden'"),
        ("methods=[dpo]", "dpo: a method on whole responses cannot train a classifier"),
        ("evaluation.groups={curly: [3, 6]}", "evaluation.groups.curly"),
    ],
)
def test_a_mistake_in_a_classifier_needs_no_transformers(tmp_path: Path, change: str, part: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "methods: [kd]\n")
    status, said, modules = imported(
        "-m", "grkd", "run", "--check", str(recipe), "teacher.training={epochs: 1}", change
    )
    assert (status, part in said) == (2, True)
    assert packages(modules) & HEAVY <= {"torch"}
    assert "torch._dynamo" not in modules


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("data.train=absent.jsonl", "absent.jsonl: no such file"),
        ("data.train=bad.jsonl", "bad.jsonl, line 1: prompt must be text"),
        ("evaluation={top_k: 1000}", "evaluation.top_k: 1000 is above the teacher's vocabulary of 40"),
        ("evaluation.questions=bad.jsonl", "bad.jsonl, line 1: question must be text"),
        ("student.layers=[0, 7]", "student.layers: the teacher has 3 layers"),
        ("student.lora={target_modules: [no_such]}", "no module of the model is named ['no_such']; it has down_proj"),
        ("student.lora={r: 1000000000}", "student.lora.r: 1000000000 is above the model's width of 32"),
        ("methods=[rkd]", "the method reads a classifier's features"),
        ("responses.temperature=0", "responses.temperature: at 0 all 2 responses"),
    ],
)
def test_a_mistake_in_a_language_recipe_needs_torch_alone(tiny_recipe: Path, change: str, part: str) -> None:
    bad = tiny_recipe.parent / "bad.jsonl"
    bad.write_text('{"prompt": 3}')
    change = change.replace("absent.jsonl", str(bad.with_name("absent.jsonl"))).replace("bad.jsonl", str(bad))
    status, said, modules = imported("-m", "grkd", "run", "--check", str(tiny_recipe), "responses.n=2", change)
    assert (status, part in said) == (2, True), said
    assert packages(modules) & HEAVY <= {"torch"}
