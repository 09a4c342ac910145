"""Files stay small enough to read; a longer one says why it is."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONG = [
    path
    for folder in ("src", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if len(path.read_text(encoding="utf-8").splitlines()) > 300
]


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.name)
def test_a_long_file_says_why(path: Path) -> None:
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    assert "Over 300 lines:" in docstring
