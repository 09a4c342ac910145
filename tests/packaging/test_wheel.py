"""The wheel has all that the commands' help mentions: recipes, the demo's data, the page, types."""

import re
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from grkd import cli
from grkd.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_what_the_help_mentions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path)))
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = ROOT / "src" / "grkd"
    ours = {f"grkd/{path.relative_to(source).as_posix()}" for path in source.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    recipes = {f"grkd/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    assert inside == ours | recipes
    page = {f"grkd/reports/page.{end}" for end in ("html.j2", "css", "js")}
    assert {"grkd/py.typed", "grkd/demo/prompts.jsonl", *page} <= inside
    mentioned = {name for one in COMMANDS.values() for name in re.findall(r"recipes/[\w/-]+\.yaml", one.DESCRIPTION)}
    assert mentioned
    assert {f"grkd/{name}" for name in mentioned} - inside == set()


def test_recipes_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes"]) == 0
    assert "digits.yaml: Distil a classifier of handwritten digits into one" in capsys.readouterr().out
    assert cli.main(["recipes", "--copy", "recipes"]) == 0
    assert (tmp_path / "recipes" / "digits.yaml").read_text() == (ROOT / "recipes" / "digits.yaml").read_text()
    assert cli.main(["recipes", "--copy", "recipes"]) == 2
    assert "it exists already" in capsys.readouterr().err
