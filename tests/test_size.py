"""Files and dataclasses stay small enough to read; a longer file says why it is."""

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "grkd"
FIELDS = 14


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


LONG = [
    path
    for folder in ("src", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if lines(path) > 300
]


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.name)
def test_a_long_file_says_why(path: Path) -> None:
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    assert "Over 300 lines:" in docstring


def test_the_median_file_is_short() -> None:
    assert median(lines(path) for path in PACKAGE.rglob("*.py")) <= 120


def test_dataclasses_are_small() -> None:
    """The recipe's sections aside: they are as large as what a user may set."""
    large = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "recipe"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.dump(each) for each in node.decorator_list):
                fields = [
                    one for one in node.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.dump(one)
                ]
                if len(fields) > FIELDS:
                    large[f"{path.relative_to(PACKAGE)}:{node.name}"] = len(fields)
    assert large == {}
