"""Benchmarks found by file or import path, and what is made from them: help, hints, checks, tables."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from grkd.benchmarks import Benchmark, all_benchmarks, find
from grkd.errors import UserError
from grkd.reports.item_measures import item_measures

ROOT = Path(__file__).parents[2]
OWN = """
from grkd.answers.question import Question
from grkd.benchmarks import Benchmark, without_interval

def check(settings):
    pass

def run(session):
    answers = session.answers([Question(id="a", turns=("w1 w2",))], task="parrot", max_new_tokens=3)
    return {"metrics": {"words": without_interval(float(len(answers["a"][0].text.split())))}}

PARROT = Benchmark(name="parrot", title="Parrot", check=check, run=run)
ANOTHER = Benchmark(name="gsm8k", title="GSM8K", check=check, run=run)
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_benchmarks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_benchmarks", raising=False)


def test_every_file_is_a_benchmark_of_its_own_name() -> None:
    files = {path.stem for path in (ROOT / "src/grkd/benchmarks").glob("[!_]*.py")}
    assert set(all_benchmarks()) == files
    assert [one.name for one in all_benchmarks().values()] == list(all_benchmarks())
    orders = [one.order for one in all_benchmarks().values()]
    assert orders == sorted(orders)


def test_nothing_else_names_one() -> None:
    """Outside its own files a benchmark is known by the registry alone; the paper's figures name their columns."""
    names = set(all_benchmarks()) - {"rank", "exact_match"}  # which are also words of other things
    rooms = [ROOT / "src/grkd" / room for room in ("evaluation", "reports", "answers", "endpoint")]
    for path in [file for room in rooms for file in room.glob("*.py") if file.name != "_paper_figures.py"]:
        code = "\n".join(line for line in path.read_text().splitlines() if "UserError(" not in line)
        assert not [name for name in names if f'"{name}"' in code], path


def test_names_of_options_columns_and_measures_are_unique() -> None:
    known = all_benchmarks().values()
    options = [option.name for one in known for option in one.options]
    columns = [column.name for one in known for column in one.columns]
    assert len(set(options)) == len(options)
    assert len(set(columns)) == len(columns)
    assert len(item_measures()) == len({(one.task, one.key) for one in item_measures()})
    assert all(one.metric.direction for one in item_measures())


def test_help_is_made_from_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["eval", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for one in all_benchmarks().values():
        assert one.name in told
        assert one.data_hint is None or one.data_hint in told
        assert all(f"{option.flag} " in told for option in one.options)
        assert one.from_file is None or one.from_file.flag in told


def test_a_benchmark_of_ones_own(
    own: None, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(tiny_teacher), "--tasks=my_benchmarks:PARROT", f"--output={tmp_path / 'run'}", "--device=cpu"]
    assert cli.main(words) == 0
    result: dict[str, Any] = json.loads((tmp_path / "run/results/parrot.json").read_text())
    assert result["metrics"]["words"]["value"] == 3.0
    assert "parrot" in capsys.readouterr().out
    assert cli.main(["table", f"a={tmp_path / 'run'}"]) == 2  # no column of a table
    assert "no metric for the table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gsm8", "did you mean gsm8k?"),
        ("nowhere:IT", "there is no module 'nowhere'"),
        ("my_benchmarks:IT", "my_benchmarks has no 'IT'"),
        ("my_benchmarks:NUMBER", "is a int, not a grkd.benchmarks.Benchmark"),
        ("my_benchmarks:ANOTHER", "give it another name"),
        (":", "an import path is 'package.module:Name'"),
    ],
)
def test_mistakes_are_one_line(own: None, name: str, part: str) -> None:
    with pytest.raises(UserError) as mistake:
        find(name)
    assert part in str(mistake.value)
    assert len(str(mistake.value)) < 400


def test_what_is_found_is_a_benchmark() -> None:
    assert all(isinstance(find(name), Benchmark) for name in all_benchmarks())
