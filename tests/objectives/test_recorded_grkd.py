"""GRKD as parts is the loss that it was as one class: loss and gradient of presets and recipes as they were recorded.

recorded_grkd.json holds what the class of 31 options gave in float64, at three points of training. Of a search: each
value of every option.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from grkd import objectives, recipe
from grkd.objectives import PRESETS
from tests.objectives._recorded import measured, settings

ROOT = Path(__file__).parents[2]
# Younger than the class of 31 options, which could not have them.
NEW_PRESETS = {"lists"}
NEW_RECIPES = {
    "recipes/on-policy-arithmetic.yaml",
    "recipes/on-policy-full.yaml",
    "recipes/on-policy-long.yaml",
    "recipes/on-policy-mixed.yaml",
    "src/grkd/demo/on_policy.yaml",
    "src/grkd/demo/rank.yaml",
}
RECORDED = json.loads((Path(__file__).parent / "recorded_grkd.json").read_text())
Numbers = list[list[float]]


def equal(found: Numbers, expected: Numbers) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


def test_every_preset_is_recorded() -> None:
    assert set(RECORDED["presets"]) == set(PRESETS) - NEW_PRESETS


@pytest.mark.parametrize(("preset", "task"), [(name, task) for name, of in RECORDED["presets"].items() for task in of])
def test_presets_are_what_they_were(preset: str, task: str) -> None:
    equal(measured(objectives.load("grkd", preset=preset), task), RECORDED["presets"][preset][task])


def entries(path: str) -> dict[str, tuple[str, dict[str, Any], dict[str, list[Any]]]]:
    """Label -> task, options and searched values of the grkd methods of a recipe."""
    read = recipe.read(ROOT / path)
    searched = read.search.options if read.search is not None else {}
    task = "classes" if read.task == "classifier" else "language"
    return {one.label: (task, one.options, searched.get(one.label, {})) for one in read.methods if one.name == "grkd"}


FILES = sorted({name.split()[0] for name in RECORDED["recipes"]})


@pytest.mark.parametrize("path", FILES)
def test_recipes_are_what_they_were(path: str) -> None:
    found = entries(path)
    expected = {name.split()[1]: value for name, value in RECORDED["recipes"].items() if name.split()[0] == path}
    assert set(found) == set(expected)
    for label, (task, options, searched) in found.items():
        given = expected[label]
        numbers: list[Numbers] = RECORDED["recipes"][given] if isinstance(given, str) else given
        tried = settings(searched)
        assert len(tried) == len(numbers)
        if isinstance(given, str) and path != FILES[0] and "classification" in path:
            tried, numbers = tried[-1:], numbers[-1:]  # the others are those of the recipe that it names
        for values, recorded in zip(tried, numbers, strict=True):
            equal(measured(objectives.load("grkd", **{**options, **values}), task), recorded)


def test_no_recipe_is_left_out() -> None:
    with_grkd = set()
    for path in [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("src/grkd/demo/*.yaml")]:
        methods = yaml.safe_load(path.read_text())["methods"]
        names = {one if isinstance(one, str) else one["name"] for one in methods}
        with_grkd |= {str(path.relative_to(ROOT))} if "grkd" in names else set()
    assert with_grkd == set(FILES) | NEW_RECIPES
