"""The benchmark of `grkd plan`: its smallest pair runs, and its table says how far off a plan was."""

import io
import json
import sys
from pathlib import Path

import pytest

from benchmarks import plan
from grkd.planning import measure


class Inline:
    """In place of a process that waits for a line: the work is done here, when the line comes."""

    def __init__(self, what: str, folder: Path) -> None:
        self.what, self.folder = what, folder

    def communicate(self, _: bytes) -> None:
        plan.work(self.what, self.folder)

    def kill(self) -> None:
        pass

    def wait(self) -> None:
        pass


def test_a_pair_is_planned_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "started", lambda place, _: {what: Inline(what, place) for what in ("planned", "taken")})
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\ngo\n"))
    monkeypatch.setattr(measure, "_EVERY", 1)
    words = ["--toy", "--only", "tiny", "--steps", "4", "--date", "2026-01-01", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    plan.main()
    (row,) = json.loads((tmp_path / "2026-01-01-plan.json").read_text())["rows"]
    assert row["planned_seconds"] > 0
    assert row["seconds"] > 0
    assert row["planned_peak_gib"] == pytest.approx(row["peak_gib"], rel=0.3)  # of the process
    assert row["taken"]["train/kd-seed0"] > 0


def test_the_table_says_how_far_off() -> None:
    row = {"pair": "a", "planned_seconds": 12.0, "seconds": 10.0, "planned_peak_gib": 0.9, "peak_gib": 1.0}
    assert plan.table([row]).splitlines()[-1] == "| a | 12.00 | 10.00 | +20% | 0.90 | 1.00 | -10% |"
    assert plan.table([{**row, "peak_gib": None}]).endswith("| +20% | - | - | - |")


@pytest.mark.parametrize("kind", ["plan", "plan-cpu"])
def test_the_guides_tables_are_those_of_the_result_files(kind: str) -> None:
    newest = sorted(plan.RESULTS.glob(f"*-{kind}.json"))[-1]
    guide = Path(__file__).parents[1] / "docs" / "guide" / "before-a-run.md"
    assert plan.table(json.loads(newest.read_text())["rows"]) in guide.read_text(encoding="utf-8")
    assert newest.name in guide.read_text(encoding="utf-8")
