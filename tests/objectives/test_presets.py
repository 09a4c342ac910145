"""Presets: what they stand for, what wins, and that they are what was measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import GRKDLoss, objectives, recipe
from grkd.errors import UserError
from grkd.objectives import GRKD, PRESETS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_composition_and_what_is_given_wins(preset: str) -> None:
    assert objectives.load("grkd", preset=preset) == GRKD(**PRESETS[preset])
    changed = objectives.load("grkd", preset=preset, alpha_ceiling=0.25)
    assert changed == GRKD(**{**PRESETS[preset], "alpha_ceiling": 0.25})
    assert objectives.load("grkd", **GRKD.spelt_out({"preset": preset})) == GRKD(**PRESETS[preset])


def test_the_papers_preset_is_the_default() -> None:
    assert objectives.load("grkd", preset="paper") == objectives.load("grkd") == GRKD()
    assert GRKD.spelt_out({"preset": "paper"}) == {}


def test_the_module_takes_presets() -> None:
    student, teacher = torch.randn(8, 5), torch.randn(8, 5)
    found = GRKDLoss(preset="classes")(student, teacher, progress=0.5)
    assert found == GRKDLoss(**PRESETS["classes"])(student, teacher, progress=0.5)
    with pytest.raises(UserError, match="GRKDLoss: parts need level: row"):
        GRKDLoss(preset="responses")


@pytest.mark.parametrize("preset", ["paper", "tokens", "classes"])
def test_a_class_that_the_teacher_rules_out_in_every_row_leaves_a_finite_loss(preset: str) -> None:
    student, teacher = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    teacher[:, 2] = -torch.inf
    loss = GRKDLoss(preset=preset)(student, teacher, progress=0.5)
    assert bool(loss.isfinite())
    assert bool(torch.autograd.grad(loss, student)[0].isfinite().all())


def _measured(path: str, label: str) -> dict[str, Any]:
    read = recipe.read(ROOT / "recipes" / path)
    return next(method.options for method in read.methods if method.label == label)


def test_presets_are_those_of_the_recipes_that_measured_them() -> None:
    for path in sorted((ROOT / "recipes" / "classification").glob("*.yaml")):
        if not path.stem.startswith("ablation"):
            assert _measured(f"classification/{path.name}", "grkd") == GRKD.spelt_out({"preset": "classes"}), path.name
    for preset, label in (("tokens", "grkd-pairs"), ("responses", "grkd-response")):
        assert _measured("arithmetic.yaml", label) == GRKD.spelt_out({"preset": preset})


TEXT = (
    "task: classifier\noutput: out\nteacher: {model: mlp}\nstudent: {model: mlp}\ndata: {dataset: digits}\nmethods:\n"
)


def test_a_recipes_preset_is_spelt_out(tmp_path: Path) -> None:
    """A run is known by its options: another version's preset of the same name is another run."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{TEXT}  - kd\n  - {{name: grkd, preset: classes, pairs.weight: 1}}\n", encoding="utf-8")
    read = recipe.read(path)
    options = read.methods[1].options
    assert options == GRKD.spelt_out({"preset": "classes", "pairs.weight": 1})
    assert options["ranking"][0] == {"part": "pairs"}
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump(read), encoding="utf-8")
    assert recipe.read(again).methods == read.methods


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: grkd, preset: clases}", r"methods.0.preset: .*did you mean 'classes'"),
        ("{name: kd, preset: classes}", "methods.0.preset: unknown key"),
        ("{name: grkd, tau: 1.0}", "methods.0.tau: unknown key; did you mean 'pairs.tau'"),
        ("{name: grkd, pairs.tua: 1.0}", "methods.0.pairs.tua: unknown key; did you mean 'pairs.tau'"),
        ("{name: grkd, pairs.tau: '1'}", "methods.0.pairs.tau: expected a number, got '1'"),
        ("{name: grkd, ranking: [{part: pairs, tau: true}]}", "methods.0.ranking.0.tau: expected a number, got true"),
        ("{name: grkd, ranking: [{part: pairs, tua: 1}]}", "methods.0.ranking.0.tua: unknown key"),
        ("{name: grkd, ranking: [{part: piars}]}", "methods.0.ranking.0.part: unknown part 'piars'"),
        ("{name: grkd, pairs.tau: 0}", "methods.0: grkd: pairs: tau must be above 0"),
        ("{name: 'os:system'}", "methods.0.name: os:system: os is in Python's standard library"),
        ("{name: 'no_such_module:Method'}", "methods.0.name: .*there is no module 'no_such_module'"),
    ],
)
def test_mistakes_in_a_recipe_name_their_place(tmp_path: Path, entry: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{TEXT}  - {entry}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"recipe.yaml:7: {said}"):
        recipe.read(path)


def test_the_command_line_sets_an_option_of_a_part(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{TEXT}  - grkd\n", encoding="utf-8")
    options = (
        recipe.read(path, ["methods.0.pairs.tau=0.5", "methods.0.anchor.soft_target.temperature=4"]).methods[0].options
    )
    assert options == GRKD.spelt_out({"pairs.tau": 0.5, "soft_target.temperature": 4.0})
    with pytest.raises(UserError, match=r"methods.0.pairs.tau=x on the command line: .*expected a number, got 'x'"):
        recipe.read(path, ["methods.0.pairs.tau=x"])
