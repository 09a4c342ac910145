"""GRKDTrainer and records: data sets of every kind, conversations, what is left out and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from grkd.errors import UserError
from grkd.training import GRKDConfig, GRKDTrainer
from tests.conftest import word_tokenizer

RECORDS = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{n + 3}"} for n in range(6)]
TALK = [
    {"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"},
    {"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4 w5"},
]  # fmt: skip


@pytest.fixture(scope="module")
def student(tiny_teacher: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher)


def trainer(student: Any, folder: Path, records: Any, evaluation: Any = None, **options: Any) -> GRKDTrainer:
    settings: dict[str, Any] = {"method": "sft", "max_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    tokenizer = options.pop("tokenizer", None) or word_tokenizer()
    args = GRKDConfig(output_dir=str(folder), **{**settings, **options})
    return GRKDTrainer(student, args=args, train_dataset=records, eval_dataset=evaluation, processing_class=tokenizer)


def said(groups: Any) -> list[tuple[str, str]]:
    tokenizer = word_tokenizer()
    return [
        (tokenizer.decode(item.prompt_ids), tokenizer.decode(item.response_ids))
        for group in groups
        for item in group.items
    ]


def test_every_kind_of_data_set_gives_the_same(student: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(RECORDS)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    table.to_parquet(tmp_path / "records.parquet")
    splits = datasets.DatasetDict({"train": table, "test": table.select([0])})
    expected = said(trainer(student, tmp_path, RECORDS).train_dataset)
    for records in (table, table.to_iterable_dataset(), iter(RECORDS), str(path), tmp_path / "records.parquet"):
        assert said(trainer(student, tmp_path, records).train_dataset) == expected
    made = trainer(student, tmp_path, splits, splits, train_split="train", eval_split="test")
    assert said(made.train_dataset) == expected
    assert said(made.eval_dataset) == expected[:1]
    assert list(trainer(student, tmp_path, table, splits).eval_dataset) == ["train", "test"], "sets by name"
    with pytest.raises(UserError, match=r"train_dataset: it has splits \(train, test\); give one of them"):
        trainer(student, tmp_path, splits)
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        trainer(student, tmp_path, str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match="eval_dataset: expected records"):
        made.evaluate(3)


@pytest.mark.parametrize("records", [[], iter([]), {}])
def test_no_records_are_not_told_as_a_file(records: Any, student: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train_dataset: (no prompts|no splits) in it; give at least one record$"):
        trainer(student, tmp_path, records)
    with pytest.raises(UserError, match=r"^eval_dataset: no prompts in it; give at least one record$"):
        trainer(student, tmp_path, RECORDS, [])


def test_every_turn_or_the_last(student: Any, tmp_path: Path) -> None:
    first = "<turn> user w1 <end> <turn> assistant"
    second = f"{first} w2 <end> <turn> user w3 <end> <turn> assistant"
    made = trainer(student, tmp_path, [{"messages": TALK}])
    assert said(made.train_dataset) == [(first, "w2 <end>"), (second, "w4 w5 <end>")]
    made = trainer(student, tmp_path, [{"messages": [*TALK, TALK[0]]}])
    assert len(made.train_dataset) == 2, "the user's last words have no answer to learn"
    made = trainer(student, tmp_path, [{"messages": TALK}], train_on_turns="last")
    assert said(made.train_dataset) == [(second, "w4 w5 <end>")]


def test_variables_of_the_template(student: Any, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% if word %}{{ word }} {% endif %}" + tokenizer.chat_template
    records = [RECORDS[0], {**RECORDS[1], "chat_template_kwargs": {"word": "w30"}}]
    made = trainer(student, tmp_path, records, tokenizer=tokenizer, chat_template_kwargs={"word": "w20"})
    assert [prompt.split()[0] for prompt, _ in said(made.train_dataset)] == ["w20", "w30"]
    with pytest.raises(UserError, match="chat_template_kwargs: tokenize is set by grkd"):
        trainer(student, tmp_path, RECORDS, chat_template_kwargs={"tokenize": True})


def test_what_is_left_out_is_named(student: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    records = [*RECORDS, {**RECORDS[0], "tools": tools, "id": "a"}, {**RECORDS[1], "tools": tools, "id": "b"}]
    assert len(trainer(student, tmp_path, records).train_dataset) == len(RECORDS)
    line = "train_dataset: 2 records left out (a, b): the chat template leaves out the tools"
    assert line in capsys.readouterr().err
    with pytest.raises(UserError, match=r"sft can learn from none of its records; 1 record left out \(a\): the chat"):
        trainer(student, tmp_path, records[-2:-1])


def test_evaluation_prompts_that_are_trained_on_are_counted(
    student: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"prompt": "w30", "completion": "w2"}
    trainer(student, tmp_path, RECORDS, {"a": [other], "b": [other, *RECORDS[:2]]})
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "also in" in line] == [
        "eval_dataset['b']: 2 of 3 prompts are also in train_dataset"
    ]


@pytest.mark.parametrize("method", ["simpo", "pro", "sft"])
def test_a_record_of_which_all_responses_are_too_long(
    student: Any, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"prompt": "w1", "chosen": "w2 w3", "rejected": f"w{n}"} for n in range(4, 8)]
    long = {"prompt": "w1", "chosen": " ".join(["w2"] * 30), "rejected": " ".join(["w3"] * 30)}
    made = trainer(student, tmp_path, [*pairs, long], method=method, max_length=16)
    assert len(made.train_dataset) == len(pairs)
    assert "train_dataset: 1 record left out" in capsys.readouterr().err
    for records in ([long], [*pairs, long]):
        with pytest.raises(UserError, match=r"none of its records; \d+ responses are over max_length 4"):
            trainer(student, tmp_path, records, method=method, max_length=4)


def test_an_order_of_responses_that_is_not_used_is_said(
    student: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method over tokens learns every response alike; what compares tokens by name, not by default, says nothing."""

    def lines(records: Any, **options: Any) -> str:
        capsys.readouterr()
        trainer(student, tmp_path, records, **options)
        return " ".join(capsys.readouterr().err.split())

    unordered = [{"prompt": "w1", "responses": ["w2", "w3", "w4"]}]
    scored = [{**unordered[0], "teacher_scores": [0.1, 0.4, 0.2]}]
    unused = "train_dataset: sft compares no responses, so their order (teacher_scores) is not used and all are"
    assert unused in lines(scored)
    assert "is not used" not in lines(unordered) + lines(RECORDS)
    assert "is not used" not in lines(scored, method="simpo")
    args = GRKDConfig(str(tmp_path), method_options={"preset": "responses"}, report_to=[], use_cpu=True)
    mixed = GRKDTrainer(student, student, args, train_dataset=scored, processing_class=word_tokenizer())
    capsys.readouterr()
    mixed.evaluate(unordered)
    assert "eval_dataset: no record has responses in an order" in " ".join(capsys.readouterr().err.split())
