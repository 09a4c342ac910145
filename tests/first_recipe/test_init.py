"""`grkd init` writes a recipe that runs for every kind of data, and nothing where it cannot."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification

from grkd import cli, recipe
from grkd.errors import UserError
from grkd.first_recipe import look
from grkd.pipeline.check import check_recipe
from tests.classify._toys import LABELLED
from tests.conftest import word_tokenizer
from tests.lists._toys import write_folder, write_lists

URL = "http://127.0.0.1:9/v1"


def jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def chats(path: Path) -> Path:
    return jsonl(
        path,
        (
            {"messages": [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": f"w{n + 1} w2"}]}
            for n in range(20)
        ),
    )


def pairs(path: Path) -> Path:
    return jsonl(path, ({"prompt": f"w{n}", "chosen": f"w{n} w1", "rejected": "w3"} for n in range(20)))


def groups(path: Path, **more: list[float]) -> Path:
    return jsonl(path, ({"prompt": f"w{n}", "responses": ["w1", "w2", "w3"], **more} for n in range(20)))


def sharegpt_and_test(folder: Path) -> Path:
    folder.mkdir()
    for name in ("train", "test"):
        asked = [{"from": "human", "value": f"w{n} w{len(name)}"} for n in range(9)]
        answer = {"from": "gpt", "value": "w3"}
        jsonl(folder / f"{name}.jsonl", ({"conversations": [one, answer]} for one in asked))
    return folder


def texts(path: Path, header: str = "text,label") -> Path:
    path.write_text(f"{header}\n" + "".join(f"{text},{label}\n" for text, label in LABELLED))
    return path


def ranked(path: Path) -> Path:
    known = sorted({label for _, label in LABELLED})
    orders = ([label, *(one for one in known if one != label)][:2] for _, label in LABELLED)
    words = (text for text, _ in LABELLED)
    return jsonl(path, ({"text": text, "ranking": order} for text, order in zip(words, orders, strict=True)))


def photos(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def table_of_photos(folder: Path) -> Path:
    photos(folder / "files")
    rows = [f"{name}/{number}.png,{name}\n" for name in ("cat", "dog") for number in range(6)]
    (folder / "labels.csv").write_text("file,animal\n" + "".join(rows))
    return folder / "labels.csv"


def parquet(path: Path) -> Path:
    pytest.importorskip("datasets", reason="needs pip install 'grkd[data]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": [f"w{n}" for n in range(20)]}), path)
    return path


Made = Callable[[Path], Path]
LARGE, LAYERS = ["--teacher", "TEACHER", "--student", "TEACHER"], ["--teacher", "TEACHER"]
SERVED = ["--teacher", URL, "--served-model", "large", "--student", "TEACHER"]
CASES: dict[str, tuple[Made, list[str], dict[str, Any]]] = {
    "chats": (
        lambda at: chats(at / "chats.jsonl"),
        LARGE,
        {"responses.source": "data", "methods.1.alpha_ceiling": 0.8},
    ),
    "layers": (lambda at: chats(at / "chats.jsonl"), LAYERS, {"student.layers": [0, 2]}),
    "prompts": (
        lambda at: jsonl(at / "p.jsonl", ({"prompt": f"w{n}"} for n in range(20))),
        LAYERS,
        {"responses.source": "teacher", "data.heldout_fraction": 0.1},
    ),
    "pairs": (lambda at: pairs(at / "pairs.jsonl"), LARGE, {"responses.n": 2, "score.reward": "data"}),
    "groups": (lambda at: groups(at / "g.jsonl"), LARGE, {"responses.n": 3, "methods": ["dpo", "grkd"]}),
    "scored groups": (
        lambda at: groups(at / "g.jsonl", teacher_scores=[1.0, 0.0, 2.0]),
        LARGE,
        {"score.reward": "data"},
    ),
    "folder of files": (lambda at: sharegpt_and_test(at / "sharegpt"), LARGE, {"data.heldout": "test.jsonl"}),
    "served": (lambda at: chats(at / "chats.jsonl"), SERVED, {"teacher.url": URL}),
    "text only": (
        lambda at: chats(at / "chats.jsonl"),
        [*SERVED, "--text-only"],
        {"methods": ["seqkd", "simpo"], "responses.n": 4},
    ),
    "other words": (
        lambda at: chats(at / "chats.jsonl"),
        ["--teacher", "TEACHER", "--student", "FOREIGN"],
        {"methods": ["seqkd", "simpo"]},
    ),
    "parquet": (lambda at: parquet(at / "p.parquet"), LAYERS, {"responses.source": "teacher"}),
    "texts": (lambda at: texts(at / "t.csv"), [], {"data.features": "tfidf", "teacher.model": "mlp"}),
    "other columns": (lambda at: texts(at / "t.csv", "said,meant"), [], {"data.text": "said", "data.label": "meant"}),
    "ranked texts": (
        lambda at: ranked(at / "t.jsonl"),
        [],
        {"teacher.ranking": "ranking", "data.features": "tfidf", "methods": ["ce", "plackett_luce", "grkd"]},
    ),
    "tags beside labels": (
        lambda at: jsonl(at / "t.jsonl", ({"text": one, "label": other, "tags": ["a"]} for one, other in LABELLED)),
        [],
        {"teacher.model": "mlp"},
    ),
    "encoder": (lambda at: texts(at / "t.csv"), ["--teacher", "BERT"], {"teacher.options": {"new_head": True}}),
    "images": (lambda at: photos(at / "photos"), [], {"student.model": "cnn"}),
    "table of images": (
        lambda at: table_of_photos(at / "mine"),
        [],
        {"data.image": "file", "data.label": "animal", "data.image_root": "files"},
    ),
    "digits": (lambda at: Path("digits"), [], {"data.dataset": "digits"}),
    "lists": (lambda at: write_lists(at / "l.jsonl"), [], {"methods": ["kd", "grkd"]}),
    "orders": (lambda at: write_lists(at / "l.jsonl", word="tiers"), [], {"methods": ["plackett_luce", "grkd"]}),
    "served order": (
        lambda at: write_lists(at / "l.jsonl"),
        ["--teacher", URL, "--served-model", "large"],
        {"teacher.served.url": URL, "teacher.asks": "permutation", "methods": ["plackett_luce", "grkd"]},
    ),
    "retrieval": (lambda at: write_folder(at / "beir"), ["--teacher", "TEACHER"], {"data.folder": "beir"}),
}


@pytest.fixture(scope="module")
def models(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders: the tiny teacher, one with other words, and an encoder without a fitting head."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_teacher, folder / "foreign")
    word = json.loads((folder / "foreign" / "tokenizer.json").read_text())
    vocabulary = word["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (folder / "foreign" / "tokenizer.json").write_text(json.dumps(word))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=40, **sizes)).save_pretrained(folder / "bert")
    word_tokenizer().save_pretrained(folder / "bert")
    return {"TEACHER": str(tiny_teacher), "FOREIGN": str(folder / "foreign"), "BERT": str(folder / "bert")}


@pytest.mark.parametrize("case", CASES)
def test_the_recipe_passes_the_check(
    case: str,
    models: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, words, expected = CASES[case]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    data, path = made(tmp_path), tmp_path / "mine.yaml"
    assert cli.main(["init", str(data), *(models.get(word, word) for word in words), "--output", str(path)]) == 0
    assert f"written: {path}" in capsys.readouterr().out
    read = recipe.read(path)
    check_recipe(read)
    plain = recipe.to_plain(read)
    plain["methods"] = [method["name"] for method in plain["methods"]] if "methods" in expected else plain["methods"]
    for key, value in expected.items():
        found: Any = plain
        for part in key.split("."):
            found = found[int(part)] if part.isdecimal() else found[part]
        if isinstance(value, str) and isinstance(found, str) and found.startswith("/"):
            found = Path(found).name
        assert found == value, (key, path.read_text())
    written = path.read_text()
    assert written.count("#") > 12
    assert max(map(len, written.splitlines())) < 121 + len(str(tmp_path))


def test_a_recipe_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert cli.main(["init", "digits", "--output", str(path)]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert path.read_text() == "mine"


MISTAKES: dict[str, tuple[Made, list[str], str]] = {
    "absent": (lambda at: at / "absent.jsonl", [], "no such file or folder"),
    "absent folder": (lambda at: Path("chats"), [], "chats: no such file or folder"),
    "no teacher": (lambda at: chats(at / "c.jsonl"), [], "--teacher: conversations need one"),
    "url": (lambda at: chats(at / "c.jsonl"), ["--teacher", URL], "--served-model: give the model's name"),
    "renamed": (
        lambda at: jsonl(at / "c.jsonl", [{"instruction": "w1", "output": "w2"}]),
        LAYERS,
        "rename instruction to prompt and output to completion",
    ),
    "one column per name": (
        lambda at: jsonl(at / "c.jsonl", [{"question": "w1", "input": "w2", "answer": "w3"}]),
        LAYERS,
        "rename question to prompt and answer to completion",
    ),
    "ranked texts": (lambda at: ranked(at / "t.jsonl"), LAYERS, "the data's own orders of classes are the teacher"),
    "broken": (
        lambda at: jsonl(at / "c.jsonl", [{"prompt": "w1"}, {"prompt": 3}]),
        LAYERS,
        "c.jsonl, line 2: prompt must be text",
    ),
    "two files": (
        lambda at: texts(texts(at / "a.csv").with_name("b.csv")).parent,
        [],
        "several data files in it (a.csv, b.csv)",
    ),
    "no order": (
        lambda at: jsonl(at / "l.jsonl", [{"query": "a", "candidates": ["b", "c"]}]),
        [],
        "--teacher: the data do not say which candidates are better",
    ),
    "no student": (lambda at: chats(at / "c.jsonl"), ["--teacher", "org/large"], "its layers cannot be counted"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    case: str, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, words, part = MISTAKES[case]
    data, path = made(tmp_path), tmp_path / "out" / "mine.yaml"
    path.parent.mkdir()
    assert cli.main(["init", str(data), *(models.get(word, word) for word in words), "--output", str(path)]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1
    assert len(said) < 400
    assert not list(path.parent.iterdir())


def test_a_data_set_by_name_is_looked_at(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def named(name: str, **options: Any) -> Iterable[dict[str, Any]]:
        asked.append((name, options))
        return iter([{"prompt": "w1", "chosen": "w2", "rejected": "w3"}])

    monkeypatch.setattr(look, "named_records", named)
    words = ["init", "org/pairs", "--teacher", models["TEACHER"], "--output"]
    assert cli.main([*words, str(tmp_path / "pairs.yaml")]) == 0
    assert asked == [("org/pairs", {"split": "train", "streaming": True})]
    assert "- dpo" in (tmp_path / "pairs.yaml").read_text()

    def unreachable(name: str, **_: Any) -> Iterable[dict[str, Any]]:
        raise UserError("no network")

    monkeypatch.setattr(look, "named_records", unreachable)
    assert cli.main([*words, str(tmp_path / "later.yaml")]) == 0
    assert "could not be looked at now (no network" in capsys.readouterr().out
    assert "dataset: org/pairs" in (tmp_path / "later.yaml").read_text()


def test_check_shows_empty_keys_too(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tiny_recipe), "--check"]) == 0
    shown = capsys.readouterr().out
    plain = yaml.safe_load(shown)
    assert plain["data"]["heldout"] is None
    assert plain["search"] is None
    again = tiny_recipe.with_name("again.yaml")
    again.write_text(shown)
    assert recipe.read(again) == recipe.read(tiny_recipe)
