"""CSV and JSON files: values are what is written, whatever they look like and whatever stands beside them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grkd import hub
from grkd.data.lists import read_lists
from grkd.data.sources import gathered, named_records, read_examples
from grkd.errors import UserError


def test_cells_of_a_table_are_the_text_that_stands_there(tmp_path: Path) -> None:
    """Answers that are numbers, or the words that readers of tables take for nothing."""
    rows = ["40 + 2?,42,007", "Any left?,None,1.10", "Namibia's code?,NA,nan", '"Two, or more?","a\nb",True']
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["prompt,completion,solution", *rows, "Nothing?,,"]))
    found = read_examples(path, read=["solution"])
    assert [example.completion for example in found] == ["42", "None", "NA", "a\nb", None]
    assert [example.columns["solution"] for example in found] == ["007", "1.10", "nan", "True", None]
    path.write_text("prompt,completion\na,b\n\nc,d,e\n")
    with pytest.raises(UserError, match=r"a\.csv, line 4: 3 fields, the header has 2"):
        read_examples(path)
    path.write_text("prompt,prompt\na,b\n")
    with pytest.raises(UserError, match=r"line 1: more than one column 'prompt'"):
        read_examples(path)


def test_lists_stand_in_no_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('query,candidates\nq,"[1, 2]"\n')
    with pytest.raises(UserError, match=r"a\.csv: a cell of a table cannot hold a list of candidates"):
        read_lists(tmp_path / "a.csv")


def test_json_keeps_every_records_own_types(tmp_path: Path) -> None:
    """As JSON Lines do: numbers beside texts, prompts as text and as messages, tool calls of other arguments, dates."""

    def called(**arguments: Any) -> dict[str, Any]:
        calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
        return {"role": "assistant", "content": "", "tool_calls": calls}

    user = {"role": "user", "content": "2020-01-02"}
    records = [
        {"prompt": "2020-01-01", "completion": "b", "solution": 1},
        {"prompt": [user], "completion": "c", "solution": "1/2"},
        {"messages": [user, called(x=1)], "solution": None},
        {"messages": [user, called(y="z")]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "lines.json").write_text(lines)
    found, expected, named_so = (
        read_examples(tmp_path / name, read=None) for name in ("a.json", "a.jsonl", "lines.json")
    )
    assert found == expected == named_so
    assert [example.prompt for example in found[:2]] == ["2020-01-01", None]
    assert [example.columns["solution"] for example in found[:2]] == [1, "1/2"]
    for text, message in (
        ("[1, 2", "not JSON"),
        ("[1, 2]", r"a\.json\[1\]: expected an object"),
        ('{"a": 1', "line 1"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_examples(tmp_path / "a.json")


def test_a_data_set_that_breaks_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A streamed one is loaded while it is read."""
    datasets = pytest.importorskip("datasets")

    def records(*_: Any, **__: Any) -> Iterator[dict[str, str]]:
        yield {"prompt": "a"}
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", records)
    monkeypatch.setattr(hub, "look_for", lambda _: None)
    with pytest.raises(UserError, match=r"data\.dataset 'org/set', split 'train': cannot be loaded \(reset by peer\)"):
        gathered(named_records("org/set", split="train", streaming=True), "org/set")
