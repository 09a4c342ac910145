"""CSV files: cells are text as it is written, whatever it looks like."""

from pathlib import Path

import pytest

from grkd.data.lists import read_lists
from grkd.data.sources import read_examples
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
    with pytest.raises(UserError, match=r"a\.csv: line 4: 3 fields, the header has 2"):
        read_examples(path)
    path.write_text("prompt,prompt\na,b\n")
    with pytest.raises(UserError, match=r"line 1: more than one column 'prompt'"):
        read_examples(path)


def test_lists_stand_in_no_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('query,candidates\nq,"[1, 2]"\n')
    with pytest.raises(UserError, match=r"a\.csv: a cell of a table holds no list of candidates"):
        read_lists(tmp_path / "a.csv")
