"""What the prepare stage reads: data sets by name, turns, and what it leaves out and says."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder

TALK = [("user", "w1"), ("assistant", "w2"), ("user", "w3"), ("assistant", "w4")]


def talk(number: int) -> dict[str, Any]:
    turns = [(role, f"{text} w{number + 5}") for role, text in TALK]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def prepared(recipe_path: Path, *words: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    recipe = read(recipe_path, ["methods=[ce]", "responses.source=data", *words])
    assert isinstance(recipe, LanguageRecipe)
    run = RunFolder(Path(recipe.output))
    prepare(LanguageContext.open(recipe, run))
    counts = json.loads((run.path / "prepare" / "counts.json").read_text())
    return pq.read_table(run.path / "prepare" / "prompts.parquet").to_pylist(), counts


def written(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"data.train={path}"


@pytest.mark.parametrize(("turns", "per_record"), [("all", 2), ("last", 1)])
def test_turns(tiny_recipe: Path, tmp_path: Path, turns: str, per_record: int) -> None:
    data = written(tmp_path / "talk.jsonl", *map(talk, range(8)))
    records, _ = prepared(tiny_recipe, data, f"data.train_on_turns={turns}")
    assert len(records) == 8 * per_record
    sides = {record["id"].split("/")[1].split(":")[0]: record["split"] for record in records}
    assert all(record["split"] == sides[record["id"].split("/")[1].split(":")[0]] for record in records)


def test_a_data_set_by_name(tiny_recipe: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"prompt": f"w{n}", "completion": "w1"} for n in range(6)])
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet")
    table.select([0, 1]).to_parquet(tmp_path / "set" / "test.parquet")
    text = tiny_recipe.read_text()
    line = next(line for line in text.splitlines() if line.startswith("data:"))
    tiny_recipe.write_text(text.replace(line, "data: {dataset: ./set, heldout_split: test, streaming: true}"))
    records, _ = prepared(tiny_recipe)
    assert [record["id"] for record in records] == [*(f"train/{n}" for n in range(6)), "heldout/0", "heldout/1"]


def test_what_is_left_out_is_counted_and_said(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = [{"prompt": f"w{n}", "completion": "w1"} for n in range(4)]
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    spelt = {"prompt": "w20", "completion": "w1 <end> w2"}  # a tokenizer of whole words cannot write it as text
    data = written(tmp_path / "data.jsonl", *fine, {**fine[0], "tools": tools}, spelt)
    heldout = tmp_path / "heldout.jsonl"
    written(heldout, fine[0], {"prompt": "w30", "completion": "w1"})
    records, counts = prepared(tiny_recipe, data, f"data.heldout={heldout}", "data.heldout_fraction=0.1")
    assert (len(records), counts["prompts_left_out"]) == (6, 2)
    said = capsys.readouterr().err
    assert "data: 1 record left out (5): the chat template leaves out the tools" in said
    assert "data: 1 record left out (6): the completion spells a control token" in said
    assert "1 of 2 held-out prompts are also in the training data" in said


def test_a_group_that_is_left_out_is_counted_once(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever reasons its responses have; those of a group that stays are counted one by one."""
    spelt, endless = "w1 <end> w2", "<think> w1"
    fine = [{"prompt": f"w{n}", "responses": ["w1", "w2"]} for n in range(4)]
    groups = [{"prompt": "w20", "responses": [spelt, endless]}, {"prompt": "w21", "responses": ["w1", "w2", endless]}]
    records, counts = prepared(tiny_recipe, written(tmp_path / "data.jsonl", *fine, *groups), "responses.n=2")
    assert (len(records), counts["prompts_left_out"]) == (5, 1)
    said = capsys.readouterr().err
    assert "data: 1 record left out (5): its reasoning block is not closed" in said
    assert [line for line in said.splitlines() if "responses left out" in line] == [
        "data: 1 responses left out: its reasoning block is not closed"
    ]


def test_nothing_left_names_the_reason(tiny_recipe: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "data.jsonl", *({"prompt": f"w{n} w1 w2", "completion": "w1"} for n in range(4)))
    with pytest.raises(UserError, match=r"no train prompt is left; \d are over data.max_prompt_tokens \(3\)"):
        prepared(tiny_recipe, data, "data.max_prompt_tokens=3")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.dataset=org/name"], "needs exactly one of train, dataset; it has train and dataset"),
        (["data.split=train"], "data.split: belongs to data.dataset"),
        (["data.heldout_split=test"], "data.heldout_split: belongs to data.dataset"),
        (["data.chat_template_kwargs={tokenize: true}"], "is set by grkd; remove it"),
    ],
)
def test_keys_that_do_not_fit(tiny_recipe: Path, words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        read(tiny_recipe, words)
