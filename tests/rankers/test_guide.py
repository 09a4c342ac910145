"""docs/guide/rankers.md: its recipes are read, its function runs, its table names every ranker and what it needs."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from grkd import rankers
from grkd.language.scorer import panel_of
from grkd.rankers import Resources
from grkd.recipe import LanguageRecipe, read

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "rankers.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
(FUNCTION,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_of_the_guide_is_read(tiny_recipe: Path, text: str) -> None:
    whole = yaml.safe_load(tiny_recipe.read_text(encoding="utf-8")) | yaml.safe_load(text)
    tiny_recipe.write_text(yaml.safe_dump(whole), encoding="utf-8")
    recipe = read(tiny_recipe)
    assert isinstance(recipe, LanguageRecipe)
    assert panel_of(recipe.score).members


def test_the_short_form_is_the_same_ranker(tiny_recipe: Path) -> None:
    short = read(tiny_recipe, ["score.reward=calibrated", "score.calibration=0.8"])
    general = read(tiny_recipe, ["score.rankers=[{name: calibrated, ratio: 0.8}]"])
    assert isinstance(short, LanguageRecipe)
    assert isinstance(general, LanguageRecipe)
    assert panel_of(short.score).identity() == panel_of(general.score).identity()


def test_the_function_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(FUNCTION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    ranker = rankers.load("function", function="my_rewards:short")
    ranker.open(Resources())
    np.testing.assert_array_equal(ranker(["p"], [["a", "bcd"]]), [[-1.0, -3.0]])


def test_the_table_has_every_ranker_and_what_it_needs() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w ]+) \|$", GUIDE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == rankers.names()
    for name, needs in rows:
        assert rankers.ranker(name).needs == {"nothing": "none"}.get(needs, needs)
