"""JSON as every file is read: strictly, and whatever is wrong with it in one short line."""

import ast
import gzip
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json, read_bytes, read_json, read_text

SOURCES = Path(__file__).parents[1] / "src" / "grkd"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**299), 10**299)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4).filter(str.isascii), inner),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == value
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "Expecting value at column 1"),
        ('{"a": 1}\n[1', "Extra data at line 2, column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5_000, "an integer of more than 300 digits"),
        ("[-" + "9" * 301 + "]", "an integer of more than 300 digits"),
        ("[1e999]", "a number that no float holds"),
        ("-1E+400", "a number that no float holds"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        (r'{"a": ["\ud83d"]}', "half of a surrogate pair"),
        (r'{"\uDE00": 1}', "half of a surrogate pair"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' appears twice"),
        ('[{"a": {"b": 1, "b": null}}]', "the key 'b' appears twice"),
        (b'"\xff"', "byte 1 is not UTF-8"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_json_is_refused_in_one_short_line(text: str | bytes, part: str, tmp_path: Path) -> None:
    with pytest.raises(NotJSON) as refused:
        parse_json(text)
    assert part in str(refused.value)
    path = tmp_path / "metrics.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as named:
        read_json(path)
    assert str(named.value).startswith(f"{path}: ")
    assert part in str(named.value)
    assert len(str(named.value)) < 400
    assert "\n" not in str(named.value)


def test_whole_pairs_and_large_numbers_pass() -> None:
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json("1e308") == 1e308
    assert parse_json("0." + "0" * 400 + "1") == 0.0
    assert math.isclose(parse_json("9" * 300), 1e300)


@given(st.text(r'[]{}",:\u0dDe1289E+.- tfn', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = parse_json(text)
    except NotJSON as error:
        assert len(str(error)) < 200  # noqa: PT017
    else:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def test_there_is_no_other_reader() -> None:
    def reads(path: Path) -> bool:
        attributes = (each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Attribute))
        return any(ast.unparse(each) in ("json.load", "json.loads") for each in attributes)

    assert [path for path in SOURCES.rglob("*.py") if reads(path)] == [SOURCES / "files.py"]


@pytest.mark.parametrize("reader", [read_bytes, read_text])
def test_what_is_no_regular_file_is_refused(reader: Callable[[Path, str], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to read it would wait for a writer for ever
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path, part in [
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a device or a pipe"),
        (Path("/dev/zero"), "is a device or a pipe"),  # has no end
        (tmp_path / "absent", "no such file"),
        (tmp_path / "round", "cannot be read"),
    ]:
        with pytest.raises(UserError) as refused:
            reader(path, "a list of prompts")
        assert str(refused.value).startswith(f"{path}: {part}")
        assert str(refused.value).endswith("; give a list of prompts")


def test_text_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for content, expected in [(b"", ""), (b"\xef\xbb\xbfa\r\n", "a\r\n"), ("é\u2028".encode(), "é\u2028")]:
        path.write_bytes(content)
        assert read_text(path) == expected
    for content, part in [
        (b"a\nb\xe9", "line 2: not UTF-8 (byte 0xe9)"),
        (gzip.compress(b"a"), "compressed with gzip"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(part)):
            read_text(path)
