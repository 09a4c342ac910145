"""docs/guide/teacher-anywhere.md and several-teachers.md: their recipes are read."""

import re
from pathlib import Path

import pytest
import yaml

from grkd.language.scorer import panel_of
from grkd.recipe import LanguageRecipe, read

GUIDES = [
    Path(__file__).parents[2] / "docs" / "guide" / f"{name}.md" for name in ("teacher-anywhere", "several-teachers")
]
RECIPES = [
    text
    for path in GUIDES
    for text in re.findall(r"```yaml\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    if "task:" not in text
]


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_of_the_guide_is_read(tiny_recipe: Path, text: str) -> None:
    whole = yaml.safe_load(tiny_recipe.read_text(encoding="utf-8")) | yaml.safe_load(text)
    tiny_recipe.write_text(yaml.safe_dump(whole), encoding="utf-8")
    recipe = read(tiny_recipe)
    assert isinstance(recipe, LanguageRecipe)
    assert panel_of(recipe.score, recipe.teacher).members
