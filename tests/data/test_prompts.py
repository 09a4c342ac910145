"""Prompts: what a line may be, errors that name file and line, the held-out part."""

import json
from pathlib import Path
from typing import Any

import pytest

from grkd.data.prompts import Example, conversation_numbers, split_heldout
from grkd.data.records import examples_of
from grkd.data.sources import read_examples
from grkd.errors import UserError


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_three_forms_of_a_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "a", "score": 3},
        "",
        {"prompt": "b", "completion": "c", "id": "named"},
        {"messages": [user("d"), assistant("e"), user("f"), assistant("g")], "prompt": "f"},
        {"messages": [user("h")], "completion": "i", "id": 77},
        {"messages": [{"role": "system", "content": "s"}, user("j")], "completion": None},
    )
    assert read_examples(path) == [
        Example(id="1", prompt="a"),
        Example(id="named", prompt="b", completion="c"),
        Example(id="4:1", messages=[user("d")], completion="e", record="4"),
        Example(id="4:2", messages=[user("d"), assistant("e"), user("f")], completion="g", record="4"),
        Example(id="77", messages=[user("h")], completion="i"),
        Example(id="6", messages=[{"role": "system", "content": "s"}, user("j")]),
    ]


def test_groups_of_responses(tmp_path: Path) -> None:
    turns = [user("q"), assistant("good")]
    path = written(
        tmp_path,
        {"prompt": "a", "responses": ["b", "c"]},
        {"prompt": "a", "responses": ["b", "c", "c"], "teacher_scores": [1, -0.5, -0.5]},
        {"messages": [user("q")], "responses": ["b"], "completion": None},
        {"prompt": "q", "chosen": "good", "rejected": "bad", "responses": None},
        {"prompt": "q", "chosen": turns, "rejected": [user("q"), assistant("bad")]},
        {"prompt": "a", "completion": "b"},
        {"prompt": "a"},
    )
    found = read_examples(path)
    assert found[:2] == [
        Example(id="1", prompt="a", responses=["b", "c"]),
        Example(id="2", prompt="a", responses=["b", "c", "c"], scores=[1.0, -0.5, -0.5]),
    ]
    assert found[2] == Example(id="3", messages=[user("q")], responses=["b"])
    assert found[3] == Example(id="4", prompt="q", responses=["good", "bad"], scores=[1.0, 0.0], order_alone=True)
    assert (found[4].responses, found[4].scores) == (found[3].responses, found[3].scores)
    assert [example.answers for example in found[4:]] == [["good", "bad"], ["b"], []]


def test_groups_that_are_not_wanted_are_checked_and_give_the_prompt(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "a", "responses": ["b", "d"]},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
    )
    assert read_examples(path, groups=False) == [
        Example(id="1", prompt="a"),
        Example(id="2", prompt="q"),
    ]
    for wrong in [
        {"responses": ["b", "d"], "completion": "c"},
        {"chosen": "b", "rejected": "b"},
        {"responses": 3},
        {"responses": ["b"], "teacher_scores": [1, 2]},
        {"chosen": "b"},
    ]:
        path = written(tmp_path, {"prompt": "a", **wrong})
        with pytest.raises(UserError, match="line 1"):
            read_examples(path, groups=False)


def test_limit_reads_the_first_and_no_further(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a"}, {"prompt": "b"}, "not JSON")
    assert [example.prompt for example in read_examples(path, limit=2)] == ["a", "b"]


def test_windows_file_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "\xc3\xa9\xe2\x80\xa8x"}\r\n')
    assert [example.prompt for example in read_examples(path)] == ["a", "é\u2028x"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "expected an object"),
        ({"text": "a"}, 'neither "prompt" nor "messages"'),
        ({"prompt": 3}, "prompt must be text, got a number"),
        ({"prompt": ["a"]}, "prompt must be a list of objects"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": "a", "completion": ""}, "completion is empty"),
        ({"prompt": "a", "completion": 1}, "completion must be text"),
        ({"prompt": "a", "id": True}, "id must be text or a whole number"),
        ({"prompt": "a", "id": "1"}, "id '1' is also that of line 1"),
        ({"messages": "a"}, "messages must be a list"),
        ({"messages": ["a"]}, "messages must be a list"),
        ({"messages": []}, "must end with a user turn"),
        ({"messages": [assistant("a")]}, "must end with a user turn"),
        ({"messages": [user("a"), assistant("b"), assistant("c")]}, "two assistant turns in a row"),
        ({"messages": [{"role": "human", "content": "a"}]}, "messages[0] has role 'human'; use one of system"),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be text, got null"),
        ({"messages": [user("a"), assistant("b")], "completion": "c"}, "keep one of them"),
        ({"prompt": "a", "completion": "b", "responses": ["c"]}, "a completion and a group of responses; keep one"),
        ({"messages": [user("a"), assistant("b")], "responses": ["c"]}, "a completion and a group of responses"),
        ({"prompt": "a", "responses": "b"}, "responses must be a list of one text or more"),
        ({"prompt": "a", "responses": []}, "responses must be a list of one text or more"),
        ({"prompt": "a", "responses": ["b", " "]}, "responses[1] is empty"),
        ({"prompt": "a", "responses": ["b", 3]}, "responses[1] must be text, got a number"),
        ({"prompt": "a", "teacher_scores": [1]}, "teacher_scores without responses"),
        ({"prompt": "a", "completion": "b", "teacher_scores": [1]}, "teacher_scores without responses"),
        ({"prompt": "a", "responses": ["b", "c"], "teacher_scores": [1]}, "2 responses need 2 teacher_scores, got 1"),
        ({"prompt": "a", "responses": ["b"], "teacher_scores": 1}, "1 responses need 1 teacher_scores, got a number"),
        (
            {"prompt": "a", "responses": ["b", "c"], "teacher_scores": [1, float("nan")]},
            "not JSON (NaN is not a JSON number)",
        ),
        (
            {"prompt": "a", "responses": ["b"], "teacher_scores": [float("-inf")]},
            "not JSON (-Infinity is not a JSON number)",
        ),
        ({"prompt": "a", "responses": ["b"], "teacher_scores": [10**400]}, "an integer of more than 300 digits"),
        (
            {"prompt": "a", "responses": ["b"], "teacher_scores": [None]},
            "teacher_scores are all null; give scores, or remove the key",
        ),
        (
            {"prompt": "a", "responses": ["b"], "teacher_scores": [True]},
            "must be a number between -1e9 and 1e9, got true or false",
        ),
        ({"prompt": "a", "chosen": "b"}, "it has chosen; give chosen and rejected, both and nothing else"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "responses": ["d"]},
            "it has responses and chosen and rejected; give chosen and rejected, both and nothing else",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is empty"),
        ({"prompt": "a", "chosen": [user("b")], "rejected": "c"}, "chosen must be text, or messages that end with"),
        ({"prompt": "a", "chosen": [], "rejected": "c"}, "chosen must be text, or messages that end with"),
        ({"prompt": "a", "chosen": [assistant(" ")], "rejected": "c"}, "chosen[0].content is empty"),
    ],
)
def test_errors_are_one_line_with_file_and_line(tmp_path: Path, line: Any, words: str) -> None:
    path = written(tmp_path, {"prompt": "fine"}, line)
    with pytest.raises(UserError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: ")
    assert words in message
    assert "\n" not in message


def test_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_examples(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_examples(tmp_path)
    with pytest.raises(UserError, match="no prompts in it; give at least one record"):
        read_examples(written(tmp_path, "", "  "))
    (tmp_path / "empty.csv").write_text("prompt,completion\n")
    with pytest.raises(UserError, match=r"empty\.csv: no prompts in it; give at least one record"):
        read_examples(tmp_path / "empty.csv")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_examples(tmp_path / "latin.jsonl")


def examples(count: int) -> list[Example]:
    return [Example(id=str(index), prompt=str(index)) for index in range(count)]


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (50, 0.1, 5), (3, 0.9, 2)])
def test_split_sizes_and_no_overlap(count: int, fraction: float, expected: int) -> None:
    everything = examples(count)
    train, heldout = split_heldout(everything, fraction, 0)
    assert len(heldout) == expected
    assert sorted(train + heldout, key=lambda example: int(example.id)) == everything
    assert train == [example for example in everything if example in train]


def test_split_depends_on_seed_and_not_on_order() -> None:
    everything = examples(50)
    chosen = {example.id for example in split_heldout(everything, 0.2, 1)[1]}
    assert chosen == {example.id for example in split_heldout(everything[::-1], 0.2, 1)[1]}
    assert chosen != {example.id for example in split_heldout(everything, 0.2, 2)[1]}
    assert chosen != {example.id for example in everything[:10]}


def test_split_errors() -> None:
    with pytest.raises(UserError, match="at least 2"):
        split_heldout(examples(1), 0.5, 0)
    with pytest.raises(UserError, match="heldout_fraction"):
        split_heldout(examples(4), 1.0, 0)


def test_turns_of_one_conversation_share_a_number(tmp_path: Path) -> None:
    """Also where the first turn is missing, and for another record that asks the same first."""

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    def said(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    records = [
        {"messages": [user("a"), said("b"), user("c"), said("d"), user("e"), said("f")]},
        {"messages": [user("ab"), said("b")]},
        {"messages": [user("a"), said("other"), user("x"), said("y")]},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    prompts = [example.conversation for example in read_examples(path)]
    assert [len(prompt) for prompt in prompts] == [1, 3, 5, 1, 1, 3]
    assert conversation_numbers(prompts) == [0, 0, 0, 3, 0, 0]
    assert conversation_numbers(prompts[1:3] + prompts[5:]) == [0, 0, 2]
    assert conversation_numbers([]) == []


def test_the_last_turn_that_is_learnt_is_an_assistants() -> None:
    """Also if the user has the last word, which is the prompt where answers are to be written."""
    told = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    record = {"messages": [*told, {"role": "user", "content": "c"}]}
    (found,) = examples_of(record, default_id="3", where="here", turns="last")
    assert found == Example(id="3", messages=told[:1], completion="b")
    (found,) = examples_of(record, default_id="3", where="here", turns="last", groups=False)
    assert found == Example(id="3", messages=record["messages"])
    with pytest.raises(UserError, match="here: every assistant turn has weight 0; give one weight 1, or drop"):
        examples_of({"messages": [told[0], {**told[1], "weight": 0}]}, default_id="3", where="here")
