"""Records as people and published sets have them, from files and data sets by name, for every reader of them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grkd.data.conversation import Messages
from grkd.data.prompts import Example, restored, shared_prompts, split_heldout
from grkd.data.records import examples_of
from grkd.data.sources import gathered, named_records, read_examples, split_of
from grkd.errors import UserError

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "data.md"
USER, ANSWER, WORSE = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "good"), ("assistant", "bad"))
)
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"city": "Rome"}}}


def read(record: dict[str, Any], **options: Any) -> list[Example]:
    return examples_of(record, default_id="3", where="here", **options)


def one(record: dict[str, Any], **options: Any) -> Example:
    (found,) = read(record, **options)
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"reasoning_content": "hm", "content": "a"}, {"reasoning_content": "hm", "content": "a"}),
        ({"thinking": "hm", "content": "a"}, {"reasoning_content": "hm", "thinking": "hm", "content": "a"}),
        (
            {"reasoning": "hm", "thinking": None, "content": "a"},
            {"reasoning_content": "hm", "reasoning": "hm", "content": "a"},
        ),
        ({"content": None, "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        (
            {"content": None, "tool_calls": [{"function": {"name": "look_up", "arguments": '{"city": "Rome"}'}}]},
            {"content": "", "tool_calls": [CALL]},
        ),
        (
            {"content": "", "tool_calls": [{"name": "look_up", "arguments": {"city": "Rome", "no": None}}]},
            {"content": "", "tool_calls": [CALL]},
        ),
        *(
            (
                {"content": "", "tool_calls": [{"name": "f", "arguments": nothing}]},
                {"content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]},
            )
            for nothing in (" ", {})
        ),
        ({"content": "a", "name": "Ada"}, {"content": "a", "name": "Ada"}),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None}, "ab"),
    ],
    ids=str,
)  # fmt: skip
def test_fields_of_messages(message: dict[str, Any], expected: Any) -> None:
    found = one({"messages": [USER, {"role": "assistant", **message}]}).completion
    assert found == (expected if isinstance(expected, str) else {"role": "assistant", **expected})


def test_every_assistant_turn_is_learnt_or_the_last() -> None:
    turns: Messages = [{"role": "system", "content": "s"}]
    for number in range(3):
        turns += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]
    found = read({"messages": turns})
    assert [(example.id, example.completion) for example in found] == [("3:1", "a0"), ("3:2", "a1"), ("3:3", "a2")]
    assert [example.messages for example in found] == [turns[:2], turns[:4], turns[:6]]
    assert {example.record for example in found} == {"3"}
    assert one({"messages": turns}, turns="last") == Example(id="3", messages=turns[:6], completion="a2")
    assert [example.completion for example in read({"messages": turns[:-1]})] == ["a0", "a1", None]
    weighted = [{**turn, "weight": 0} if turn["content"] == "a1" else turn for turn in turns]
    assert [example.completion for example in read({"messages": weighted})] == ["a0", "a2"]


def test_a_greeting_is_context_and_tools_lead_to_the_next_answer() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    tool = {"role": "tool", "content": "sunny", "tool_call_id": "1"}
    hello = {"role": "assistant", "content": "hello"}
    first, second = read({"messages": [hello, USER, called, tool, ANSWER], "tools": json.dumps([CALL])})
    assert (first.messages, first.completion, first.tools) == ([hello, USER], called, [CALL])
    assert (second.messages, second.completion) == ([hello, USER, called, tool], "good")


def test_sharegpt() -> None:
    turns = [("system", "s"), ("human", "q"), ("function_call", json.dumps(CALL["function"])), ("observation", "sunny")]
    conversation = [{"from": speaker, "value": text} for speaker, text in [*turns, ("gpt", "good")]]
    first, second = read({"conversations": conversation})
    assert first.completion == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert [message["role"] for message in second.messages or ()] == ["system", "user", "assistant", "tool"]
    assert second.completion == "good"
    short = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]
    assert one({"conversations": short, "system": "s"}).messages == [{"role": "system", "content": "s"}, USER]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, WORSE], "messages": [USER, ANSWER], "score": 8},
        {"chosen": [USER, ANSWER], "rejected": [USER, WORSE], "id": None},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        {"messages": [USER], "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": ANSWER, "rejected": WORSE},
    ],
    ids=lambda record: ", ".join(record),
)  # fmt: skip
def test_pairs_as_published(record: dict[str, Any]) -> None:
    found = one(record)
    assert found.conversation == [USER]
    assert (found.id, found.answers, found.scores) == ("3", ["good", "bad"], [1.0, 0.0])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, "prompt is not the one that chosen"),
        ({"messages": [USER, WORSE], "chosen": [USER, ANSWER], "rejected": "bad"}, "another answer than chosen"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "it has images; only text is learnt"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}, ANSWER]}, "content[0] is 'image'"),
        ({"messages": [USER, {**ANSWER, "reasoning": "a", "thinking": "b"}]}, "different texts in reasoning_content"),
        ({"messages": [{**USER, "reasoning_content": "a"}, ANSWER]}, "has reasoning, but role user"),
        ({"messages": [{**USER, "tool_calls": [CALL]}, ANSWER]}, "only the assistant calls tools"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "x"}]}, "tool_calls is text, but not JSON"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{}]}]}, "tool_calls[0] must be"),
        *(
            (
                {"messages": [USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": arguments}]}]},
                f"tool_calls[0]: arguments {words}",
            )
            for arguments, words in [
                *((wrong, "must be an object ({} if there are none)") for wrong in (3, None, "[1]", "null")),
                ("{", "are text, but"),
            ]
        ),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"id": [1], "name": "f"}]}]}, "tool_calls[0].id must be text"),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "weight must be 0 (not learnt) or 1"),
        ({"messages": [USER, ANSWER], "tools": "x"}, "tools is text, but not JSON"),
        ({"messages": [USER, ANSWER], "tools": 3}, "tools must be a list"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": 3}, "chat_template_kwargs must be an object"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": {"tokenize": True}}, "tokenize is set by grkd"),
        ({"messages": [USER, ANSWER], "conversations": [USER]}, "both messages and conversations"),
        ({"messages": [{"role": "system", "content": "a"}, USER, ANSWER], "system": "b"}, "says something else"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "is from 'bot'"),
        ({"prompt": [USER, ANSWER]}, "no assistant turn after a user's"),
        ({"prompt": "other", "messages": [USER, ANSWER]}, "prompt is not in the messages beside it; keep one"),
        ({"prompt": 3, "messages": [USER, ANSWER]}, "prompt must be text, got a number"),
        ({"prompt": [ANSWER], "messages": [USER, ANSWER]}, "prompt is not in the messages beside it"),
        ({"prompt": "q", "chosen": "a", "rejected": "a "}, "chosen and rejected are the same, but one is better"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "chosen and rejected are the same"),
        ({"prompt": "q", "responses": ["a", "b", "a"], "teacher_scores": [1, 2, 3]}, "responses[2] are the same, but"),
        ({"prompt": "q", "responses": ["a", "b"], "completion": "a"}, "a completion and a group of responses"),
        ({"prompt": "q", "responses": ["a", "b"], "teacher_scores": {"a": 1}}, "need 2 teacher_scores, got an object"),
        ({"prompt": "q", "responses": ["a", "b"], "teacher_scores": [1e10, 0]}, "between -1e9 and 1e9, got 1e+10"),
        ({"prompt": "q", "completion": "a", "teacher_scores": [1]}, "teacher_scores without responses"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{**CALL, "id": "1"}]},
                          {"role": "tool", "content": "", "tool_call_id": "2"}]},
            "tool_call_id '2' matches no earlier tool call",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(record: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(record)
    assert str(caught.value).startswith("here: ")
    with pytest.raises(UserError):  # also where the responses are not wanted
        read(record, groups=False)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_groups_without_a_difference_are_refused_with_their_number() -> None:
    records = [{"prompt": p, "responses": r} for p, r in [("x", ["b", "b"]), ("y", ["b", "c"]), ("z", ["b", " b"] * 9)]]
    with pytest.raises(UserError, match=r"^records\[0\]: the responses are all the same.*; drop or fix 2 records"):
        gathered(records, "records")
    assert len(gathered([*records[1:2], {"prompt": "z", "responses": ["b"]}], "records")) == 2


def test_keys_that_nothing_reads_are_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    unused: Counter[str] = Counter()
    read({"messages": [{**USER, "lang": "en"}, ANSWER], "prompt": "q ", "source": "x", "empty": None}, unused=unused)
    assert unused == {"messages[].lang": 1, "source": 1}
    gathered([{"prompt": "q", "score_chosen": 1, "[b]": 2}] * 3, "records")
    assert capsys.readouterr().err == "records: keys that are not used: [b], score_chosen\n"
    gathered([{"prompt": "q", "scores": [1, 2], "respones": ["a", "b"], "topic": 1}], "records")
    meant = "respones (did you mean responses?), scores (did you mean teacher_scores?), topic\n"
    assert capsys.readouterr().err == f"records: keys that are not used: {meant}"


def test_a_table_keeps_all_of_a_prompt() -> None:
    record = {"messages": [USER, {**ANSWER, "reasoning_content": "hm"}, USER, ANSWER], "tools": [CALL]}
    for example in read({**record, "chat_template_kwargs": {"enable_thinking": False, "none": None}}):
        again = restored({"id": example.id, **example.stored()}, completion=example.completion)
        assert (again.conversation, again.completion) == (example.conversation, example.completion)
        assert (again.tools, again.template_options) == ([CALL], {"enable_thinking": False})
    assert restored({"id": "a", "messages": json.dumps([USER])}) == Example(id="a", prompt="q")


class TestSplits:
    def test_prompts_are_split_and_not_records(self) -> None:
        examples = [Example(id=str(n), prompt=f"w{n % 10}", completion=f"a{n}") for n in range(40)]
        for seed in range(5):
            train, heldout = split_heldout(examples, 0.2, seed)
            assert len({example.prompt for example in heldout}) == 2
            assert len(heldout) == 8
            assert shared_prompts(heldout, train) == 0
        with pytest.raises(UserError, match="at least 2 different prompts, got 1"):
            split_heldout(examples[::10], 0.2, 0)

    def test_turns_of_a_conversation_stay_together(self) -> None:
        records = [
            {"messages": [{"role": "user", "content": f"q{n}"}, ANSWER, {"role": "user", "content": "more"}, ANSWER]}
            for n in range(10)
        ]
        train, heldout = split_heldout(gathered(records, "records"), 0.3, 0)
        assert len(heldout) == 6
        assert {example.record for example in train}.isdisjoint({example.record for example in heldout})


class TestSources:
    RECORDS = ({"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"})

    def test_files_of_every_kind(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list(list(self.RECORDS))
        table.to_parquet(tmp_path / "a.parquet")
        table.to_csv(tmp_path / "a.csv", index=False)
        (tmp_path / "a.json").write_text(json.dumps(self.RECORDS))
        (tmp_path / "a.tsv").write_text("prompt\tcompletion\na\tb\nc\td\n")
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in self.RECORDS))
        found = {
            suffix: read_examples(tmp_path / f"a.{suffix}") for suffix in ("jsonl", "parquet", "csv", "json", "tsv")
        }
        assert all(examples == found["jsonl"] for examples in found.values())
        assert read_examples(tmp_path / "a.parquet", limit=1) == found["jsonl"][:1]
        (tmp_path / "b.parquet").write_bytes(b"no table")
        with pytest.raises(UserError, match=r"b\.parquet: cannot be read \(.*repair the file"):
            read_examples(tmp_path / "b.parquet")
        with pytest.raises(UserError, match="no such file"):
            read_examples(tmp_path / "c.csv")

    def test_columns_that_another_record_needs_are_null(self) -> None:
        datasets = pytest.importorskip("datasets")
        called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        table = datasets.Dataset.from_list([{"messages": [USER, called]}, {"messages": [USER, ANSWER]}])
        assert [example.completion for example in gathered(table, "records")] == [
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            "good",
        ]

    def test_a_local_folder_by_name(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list(list(self.RECORDS))
        (tmp_path / "set").mkdir()
        table.to_parquet(tmp_path / "set" / "train.parquet")
        table.select([1]).to_parquet(tmp_path / "set" / "test.parquet")
        for split, expected in (("train", ["a", "c"]), ("test", ["c"])):
            records = named_records(str(tmp_path / "set"), split=split, streaming=True)
            assert [record["prompt"] for record in records] == expected
        with pytest.raises(UserError, match="split 'dev': cannot be loaded") as caught:
            named_records(str(tmp_path / "set"), split="dev", streaming=True)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        for use in (
            lambda: list(named_records("org/set", split="train")),
            lambda: read_examples(tmp_path / "a.parquet"),
        ):
            with pytest.raises(UserError, match=r"needs the datasets package: pip install 'grkd\[data\]'"):
                use()

    def test_splits(self) -> None:
        splits = {"train": [1], "test": [2]}
        assert split_of(splits, "test", "train_dataset", "args.train_split") == [2]
        assert split_of([3], None, "train_dataset", "args.train_split") == [3]
        with pytest.raises(
            UserError, match=r"it has splits \(train, test\); give one of them, or set args.train_split"
        ):
            split_of(splits, None, "train_dataset", "args.train_split")
        with pytest.raises(UserError, match="no split 'dev' among train, test"):
            split_of(splits, "dev", "train_dataset", "args.train_split")


def test_the_guides_records_are_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(blocks) >= 8
    for block in blocks:
        (tmp_path / "a.jsonl").write_text(" ".join(block.split()) + "\n")
        assert all(example.answers for example in read_examples(tmp_path / "a.jsonl"))
