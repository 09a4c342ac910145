"""The JSON schema and the reference page follow the types."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from grkd import cli, recipe
from grkd.recipe._read import TASKS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "recipe-reference.md"


def test_the_page_is_that_of_the_types() -> None:
    assert PAGE.read_text(encoding="utf-8") == recipe.reference(), f"grkd schema --markdown --output {PAGE}"


def test_every_key_has_a_line_and_a_default() -> None:
    page = recipe.reference()
    for section in (*TASKS.values(), recipe.Training, recipe.Responses, recipe.Lora):
        for field in fields(section):
            assert f"| `{field.name}` | " in page
    assert "| `warmup` | a number of at least 0 and below 1 | `0.1` | fraction of training during which" in page
    assert "| `output` | text that is not empty | required | folder of the run" in page
    assert "|  |\n" not in page, "a key without a meaning: add a comment behind its field"


def test_the_shipped_schema_is_that_of_the_types() -> None:
    """In the wheel (tests/packaging holds that all of src/grkd is) and, by a link, in the documentation."""
    shipped = ROOT / "src" / "grkd" / "recipe.schema.json"
    assert json.loads(shipped.read_text()) == json.loads(json.dumps(recipe.schema())), f"grkd schema --output {shipped}"
    assert (ROOT / "docs" / shipped.name).resolve() == shipped


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(recipe.schema()))
    assert cli.main(["schema", "--markdown", "--output", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == recipe.reference()
