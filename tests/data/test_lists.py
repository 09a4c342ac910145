"""Lists from JSON Lines: what is read, and mistakes by file and line."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from grkd.data.lists import read_lists, read_named_lists
from grkd.errors import UserError


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scores_orders_tiers_and_grades(tmp_path: Path) -> None:
    path = write(
        tmp_path / "lists.jsonl",
        {"query": "a", "candidates": ["x", "y", "z"], "scores": [0.5, None, -1]},
        {"query": "b", "candidates": ["y", "x"], "order": [1, 0]},
        {"query": "c", "candidates": ["x", "y", "z", "w"], "order": [2, 0]},
        {"query": "d", "candidates": ["x", "y", "z"], "tiers": [[1, 2], [0]], "grades": [0, 2, 1]},
        {"query": "e", "candidates": ["x", "y"], "grades": [0, 1]},
    )
    lists = read_lists(path)
    assert lists.documents == ("x", "y", "z", "w")  # equal texts are one document
    assert [one.kind for one in lists.train] == ["scores", "order", "tiers", "tiers", "tiers"]
    assert [one.word for one in lists.train] == [
        (0.5, None, -1.0),
        (-1.0, -0.0),
        (-1.0, -2.0, -0.0, -2.0),  # y and w, left out, share the last place
        (-1.0, -0.0, -0.0),
        (0.0, 1.0),
    ]
    assert lists.train[1].candidates == (1, 0)
    assert lists.judged == {"d": {0: 0, 1: 2, 2: 1}, "e": {0: 0, 1: 1}}
    assert lists.word == "tiers"  # the least of them


GOOD = {"query": "a", "candidates": ["x", "y"], "order": [0, 1]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"querry": "a"}, "line 2: unknown key 'querry'; did you mean 'query'?"),
        ({"query": " "}, "line 2: query: expected a text"),
        ({"candidates": ["x"]}, "line 2: candidates: expected two texts or more"),
        ({"candidates": ["x", "x"]}, 'line 2: candidates: "x" appears twice'),
        ({"order": [0, 2]}, "line 2: order: expected numbers of candidates, 0 to 1, got 2"),
        ({"order": ["x", "y"]}, 'line 2: order: expected numbers of candidates, 0 to 1, got "x"'),
        ({"order": [0, 0]}, "line 2: order: candidate 0 appears twice"),
        ({"order": []}, "line 2: order: expected lists of candidates' numbers"),
        ({"order": None, "tiers": [0, 1]}, "line 2: tiers: expected lists of candidates' numbers"),
        ({"scores": [1, 2]}, "line 2: scores and order are both given"),
        ({"order": None, "scores": [1]}, "line 2: scores: expected one number for each of the 2 candidates, got 1"),
        ({"order": None, "scores": [1, "2"]}, 'line 2: scores: expected numbers (null: no opinion), got "2"'),
        ({"grades": [1, -1]}, "line 2: grades: expected whole numbers from 0"),
        ({"order": None, "scores": [1, 10**10]}, "line 2: scores: expected numbers between -1e9 and 1e9"),
        ({"order": None, "scores": [1, None]}, "line 2: scores: no candidate is before another"),
        ({"order": None, "scores": [1, 1]}, "line 2: scores: no candidate is before another"),
        ({"order": None, "scores": {"x": 1}}, "line 2: scores: expected one number for each of the 2 candidates"),
        ({"order": None, "tiers": [[0, 1]]}, "line 2: tiers: no candidate is before another"),
        ({"candidates": ["x", " x"]}, 'line 2: candidates: " x" appears twice'),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "lists.jsonl", GOOD, GOOD | changed)
    with pytest.raises(UserError) as error:
        read_lists(path)
    assert str(error.value).startswith(f"{path}, {message}")
    assert len(str(error.value)) < 400


def test_no_file_no_lists_no_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        read_lists(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no lists in it"):
        read_lists(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"query": \n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_lists(tmp_path / "broken.jsonl")
    (tmp_path / "names.json").write_text('["a"]')
    with pytest.raises(UserError, match=r"names\.json\[1\]: expected an object with query and candidates, got"):
        read_lists(tmp_path / "names.json")


def test_a_data_set_by_name_and_a_parquet_file_are_the_same_lists(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "candidates": ["x", "y"], "order": [1, 0], "source": "web"},  # a column of its own
        {"query": "b", "candidates": ["y", "z"], "order": [0, 1], "source": "web"},
    ]
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", *rows)
    write(folder / "test.jsonl", {"query": "c", "candidates": ["x", "z"], "order": [1]})
    found = read_named_lists(str(folder), split="train", heldout_split="test")
    own = [{key: value for key, value in row.items() if key != "source"} for row in rows]
    assert found.train == read_lists(write(tmp_path / "lists.jsonl", *own)).train
    assert found.heldout[0].candidates == (0, 2)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(own), tmp_path / "lists.parquet")
    assert read_lists(tmp_path / "lists.parquet").train == found.train
    dated = [{**own[0], "query": datetime.date(2026, 1, 1)}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(dated), tmp_path / "dated.parquet")
    with pytest.raises(UserError, match=r'parquet\[1\]: query: expected a text, got "2026-01-01"'):
        read_lists(tmp_path / "dated.parquet")
    write(folder / "test.jsonl", {"query": "c", "candidates": ["x", "z"], "order": [2]})
    with pytest.raises(UserError, match="set, split test, row 0: order: expected numbers of candidates, 0 to 1, got 2"):
        read_named_lists(str(folder), split="train", heldout_split="test")
    with pytest.raises(UserError, match="split 'other': cannot be loaded"):
        read_named_lists(str(folder), split="other")
