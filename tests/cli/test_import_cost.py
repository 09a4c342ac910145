"""What a command imports: help and a mistake in a recipe must not wait for PyTorch.

Commands with the same limit run in one new Python: what one of them imports is seen in those after it, too.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "accelerate", "scipy", "sklearn", "matplotlib", "pyarrow", "triton"}
RECIPE = "task: classifier\noutput: run\nteacher: {model: mlp}\nstudent: {model: mlp}\ndata: {dataset: digits}\n"
COMMANDS = """
import contextlib, io, json, sys
from grkd.cli import main
found = []
for words in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
    found.append([status, errors.getvalue(), sorted(sys.modules)])
print(json.dumps(found))
"""


def ran(commands: list[list[str]]) -> list[tuple[int, str, set[str]]]:
    """Exit status and standard error of every command, and the modules imported until its end."""
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=True)
    return [(status, said, set(modules)) for status, said, modules in json.loads(ended.stdout)]


def imported(*words: str) -> tuple[int, str, set[str]]:
    """Exit status and standard error of a Python, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    modules = set(re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE))
    said = "\n".join(line for line in ended.stderr.splitlines() if not line.startswith("import time:"))
    return ended.returncode, said, modules


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_help_needs_none_of_the_heavy_packages() -> None:
    for status, said, modules in ran([["--help"], ["--version"], ["eval", "--help"], ["methods"]]):
        assert (status, said) == (0, "")
        assert "grkd" in modules
        assert not packages(modules) & HEAVY


def test_nor_does_a_mistake_in_a_recipe(tmp_path: Path) -> None:
    mistakes = {
        "methds: [kd]": "methods",
        "methods: [grdk]": "grkd",
        "methods: [{name: kd, label: before}]": "before",
        "methods: [kd]\ntraining: {learning_rat: 1}": "learning_rate",
        "methods: [kd]\nseeds: []": "seeds",
        "methods: [{name: grkd, preset: classes}]\ntraining: {learning_rat: 1}": "learning_rate",
        "methods: [{name: kd, temprature: 2}]\ntraining: {epochs: 0}": "'temperature'?; line 7: training.epochs",
        "methods: [kd]\ntraining: {steps: 3, epochs: 2}": "epochs",
    }
    recipes = [tmp_path / f"{number}.yaml" for number in range(len(mistakes))]
    for recipe, line in zip(recipes, mistakes, strict=True):
        recipe.write_text(RECIPE + line + "\n")
    found = ran([["run", str(recipe)] for recipe in recipes])
    for (status, said, modules), part in zip(found, mistakes.values(), strict=True):
        assert status == 2
        assert part in said
        assert len(said.splitlines()) == 1
        assert not packages(modules) & HEAVY, part


def test_the_module_is_the_command() -> None:
    status, _, modules = imported("-m", "grkd", "--version")
    assert status == 0
    assert not packages(modules) & HEAVY


def test_the_losses_need_torch_alone() -> None:
    _, _, alone = imported("-c", "import torch")
    status, said, modules = imported("-c", "import grkd; grkd.GRKDLoss, grkd.losses, grkd.groups, grkd.schedules")
    assert (status, said) == (0, "")
    assert "grkd.objectives.methods.grkd" in modules
    assert "torch._dynamo" not in modules
    assert packages(modules) - packages(alone) <= {"grkd", "jaxtyping"} | set(sys.stdlib_module_names)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + "methods: [kd]\n")
    return str(path)


def test_a_mistake_in_what_goes_to_transformers_needs_torch_alone(recipe: str) -> None:
    mistakes = {
        ("run", "--check", recipe, "training.report_to=nope"): "training.report_to: unknown tracker 'nope'",
        ("run", recipe, "teacher.training={report_to: nope}"): "teacher.training.report_to: unknown tracker 'nope'",
        ("run", "--check", recipe, "training.extra={adam_beta: 0.9}"): "did you mean 'adam_beta",
        ("compare", recipe, "training.extra={adam_beta2: much}"): (
            "training.extra.adam_beta2: expected float, got 'much'"
        ),
        ("run", "--check", recipe, "training.report_to=clearml"): "training.report_to: clearml is not installed",
        ("compare", "--check", recipe, "training.extra={optim: adamw_trch}"): "did you mean 'adamw_torch'",
        ("run", "--check", recipe, "training.extra={optim: galore_adamw}"): "galore_adamw needs the package galore",
    }
    for (status, said, modules), part in zip(ran([*map(list, mistakes)]), mistakes.values(), strict=True):
        assert status == 2
        assert part in said
        assert len(said.splitlines()) == 1
        assert packages(modules) & HEAVY <= {"torch"}, part  # which the recipe's methods need


def test_a_mistake_in_a_classifier_needs_no_transformers(recipe: str) -> None:
    mistakes = {
        "student={model: mlp, options: {hiden: [3]}}": "mlp: unknown option 'hiden'",
        "methods=[dpo]": "dpo: a method on whole responses cannot train a classifier",
        "evaluation.groups={curly: [3, 6]}": "evaluation.groups.curly",
    }
    commands = [["run", "--check", recipe, "teacher.training={epochs: 1}", change] for change in mistakes]
    for (status, said, modules), part in zip(ran(commands), mistakes.values(), strict=True):
        assert (status, part in said) == (2, True), said
        assert packages(modules) & HEAVY <= {"torch"}, part
        assert "torch._dynamo" not in modules


def test_a_mistake_in_a_language_recipe_needs_torch_alone(tiny_recipe: Path) -> None:
    bad, absent = tiny_recipe.parent / "bad.jsonl", tiny_recipe.parent / "absent.jsonl"
    bad.write_text('{"prompt": 3}')
    mistakes = {
        f"data.train={absent}": "absent.jsonl: no such file",
        f"data.train={bad}": "bad.jsonl, line 1: prompt must be text",
        "evaluation={top_k: 1000}": "evaluation.top_k: 1000 is above the teacher's vocabulary of 40",
        f"evaluation.questions={bad}": "bad.jsonl, line 1: question must be text",
        "student.layers=[0, 7]": "student.layers: the teacher has 3 layers",
        "student.lora={target_modules: [no_such]}": "no module of the model is named ['no_such']; it has down_proj",
        "student.lora={r: 1000000000}": "student.lora.r: 1000000000 is above the model's width of 32",
        "search={metric: exact_match}": "unknown metric 'exact_match'; exact_match needs search.questions; available: ",
        "evaluation.sample_tokens=65": "evaluation.sample_tokens: 65 are more than the model's context of 64",
        "methods=[rkd]": "the method reads a classifier's features",
        "responses.temperature=0": "responses.temperature: at 0 all 2 responses",
    }
    commands = [["run", "--check", str(tiny_recipe), "responses.n=2", change] for change in mistakes]
    for (status, said, modules), part in zip(ran(commands), mistakes.values(), strict=True):
        assert (status, part in said) == (2, True), said
        assert packages(modules) & HEAVY <= {"torch"}, part
