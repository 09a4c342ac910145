"""`grkd doctor` on classifiers and rankers: every planted fault is found and named, a sound recipe is let through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from grkd import recipe
from grkd.doctor import classes, lists
from grkd.doctor.examine import examine
from grkd.doctor.finding import Finding
from tests.classify._toys import WORDS
from tests.conftest import word_tokenizer
from tests.lists._toys import write_lists, write_teacher

TEXTS = """
task: classifier
output: run
device: cpu
data: {train: train.csv, heldout: heldout.csv, features: tfidf}
teacher: {model: mlp, options: {hidden: [16]}, training: {epochs: 6, batch_size: 8, learning_rate: 1e-2}}
student: {model: mlp, options: {hidden: [4]}}
methods: [kd]
seeds: [0, 1, 2]
training: {epochs: 20, batch_size: 8, learning_rate: 1e-2}
"""
LISTS = """
task: rank
output: run
device: cpu
data: {train: train.jsonl, heldout: heldout.jsonl}
methods: [{name: grkd, preset: lists}]
seeds: [0, 1, 2]
training: {epochs: 20, batch_size: 4, learning_rate: 0.05}
"""
Plant = Callable[[Path], list[str]]
NAMES = ("train.csv", "heldout.csv")


def labelled() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training and held-out texts of two classes, told apart by their words."""
    every = [(f"{one} {two} n{k}", name) for name, own in WORDS.items() for one in own for two in own for k in range(4)]
    return every[::2], [(f"{text} held", label) for text, label in every[1::2]]


def write_texts(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def one_sided(folder: Path) -> list[str]:
    train, _ = labelled()
    write_texts(folder / NAMES[0], [one for one in train if one[1] == "card"] + [("rate money", "rate")] * 3)
    return []


def rows_of(change: Callable[[list[tuple[str, str]], list[tuple[str, str]]], list[tuple[str, str]]]) -> Plant:
    """Change the training texts; the held-out ones are given, too."""

    def plant(folder: Path) -> list[str]:
        write_texts(folder / NAMES[0], change(*labelled()))
        return []

    return plant


def encoder(folder: Path) -> str:
    """A BERT whose head has the classes by name, and knows nothing of them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=40, id2label={0: "card", 1: "rate"}, label2id={"card": 0, "rate": 1}, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder / "bert")
    word_tokenizer().save_pretrained(folder / "bert")
    return str(folder / "bert")


CLASSES: dict[str, tuple[str, Plant]] = {
    "one class is nearly all": ("balance", one_sided),
    "a class of three": ("few examples", one_sided),
    "held-out texts in training": ("overlap", rows_of(lambda train, held: [*train, *held[:5]])),
    "one text, two labels": ("contrary labels", rows_of(lambda train, _: [*train, (train[0][0], "rate")])),
    "texts many times": ("repeated examples", rows_of(lambda train, _: [*train, *train[:20]])),
    "texts over the limit": (
        "cut texts",
        lambda at: [f"teacher={{model: {encoder(at)}, training: {{epochs: 1}}}}", "data.max_tokens=3"],
    ),
    "a student larger than the teacher": ("size", lambda _: ["student={model: mlp, options: {hidden: [99]}}"]),
    "a teacher that guesses": ("teacher", lambda at: [f"teacher={{model: {encoder(at)}}}"]),
    "a class that is nowhere held out": (
        "few examples",
        lambda at: write_texts(at / NAMES[1], [one for one in labelled()[1] if one[1] == "card"]) or [],  # type: ignore[func-returns-value]
    ),
}


def found(folder: Path, text: str, words: list[str]) -> list[Finding]:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return examine(recipe.read(path, words))


def no_worse_than_notes(findings: list[Finding]) -> bool:
    return all(one.severity == "note" for one in findings)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for name, rows in zip(NAMES, labelled(), strict=True):
        write_texts(tmp_path / name, rows)
    return tmp_path


@pytest.mark.parametrize("fault", [None, *CLASSES])
def test_a_fault_of_a_classifier_is_found(fault: str | None, texts: Path) -> None:
    check, plant = CLASSES[fault] if fault else ("teacher", lambda _: [])
    findings = found(texts, TEXTS, plant(texts))
    assert check in [one.check for one in findings], findings
    assert fault is not None or no_worse_than_notes(findings)


@pytest.mark.parametrize(("right", "check"), [((1.0, 0.7), "teacher by heart"), ((0.6, 0.65), "noise")])
def test_a_teacher_against_the_labels(
    right: tuple[float, float], check: str, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dict(zip(("training examples", "held-out examples"), zip(labelled(), right, strict=True), strict=True))

    def scored(_: Any, __: Any, inputs: Any, what: str) -> tuple[torch.Tensor, None]:
        (examples, share) = rows[what]
        labels = torch.tensor([label == "rate" for _, label in examples])[: len(inputs)]
        wrong = torch.arange(len(labels)) >= round(share * len(labels))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.one_hot((labels ^ wrong[order]).long(), 2).float(), None

    monkeypatch.setattr(classes, "scored", scored)
    findings = found(texts, TEXTS, [f"teacher={{model: {encoder(texts)}}}"])
    assert check in [one.check for one in findings], findings


def test_a_teacher_of_sorted_examples_is_seen_by_examples_of_every_class(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in zip(NAMES, labelled(), strict=True):
        write_texts(texts / name, sorted(rows, key=lambda row: row[1]))
    monkeypatch.setattr(classes, "_EXAMPLES", 16)  # fewer than each class has

    def scored(_: Any, __: Any, inputs: Any, ___: str) -> tuple[torch.Tensor, None]:
        return torch.tensor([[1.0, 0.0]]).expand(len(inputs), 2), None  # the first class, whatever the text

    monkeypatch.setattr(classes, "scored", scored)
    findings = found(texts, TEXTS, [f"teacher={{model: {encoder(texts)}}}"])
    assert any(one.check == "teacher" and "the most frequent label on 50%" in one.text for one in findings), findings


def test_an_order_of_classes_is_no_mistake(texts: Path) -> None:
    for name, rows in zip(NAMES, labelled(), strict=True):
        lines = ({"text": text, "ranking": [label]} for text, label in rows)
        (texts / name).with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        f"data={{train: {texts}/train.jsonl, heldout: {texts}/heldout.jsonl, features: tfidf}}",
        "teacher={ranking: ranking}",
    ]
    assert no_worse_than_notes(found(texts, TEXTS, [*words, "methods=[plackett_luce]"]))


def changed(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Plant:
    """Change every list of a file."""

    def plant(folder: Path) -> list[str]:
        rows = [change(json.loads(line)) for line in (folder / name).read_text().splitlines()]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return []

    return plant


def turned(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "scores": [-one for one in row["scores"]]}


def sorted_by_score(row: dict[str, Any]) -> dict[str, Any]:
    order = sorted(range(len(row["scores"])), key=lambda place: -row["scores"][place])
    return {name: value if name == "query" else [value[place] for place in order] for name, value in row.items()}


def both(plant: Callable[[str], Plant]) -> Plant:
    return lambda folder: [*plant("train.jsonl")(folder), *plant("heldout.jsonl")(folder)]


QUERIES: dict[str, tuple[str, Plant]] = {
    "held-out queries in training": (
        "overlap",
        lambda at: [(at / "heldout.jsonl").write_text((at / "train.jsonl").read_text()), []][1],  # type: ignore[list-item,return-value]
    ),
    "equal scores": ("recipe", changed("train.jsonl", lambda row: {**row, "scores": [1.0] * len(row["scores"])})),
    "candidates in their order": ("given order", both(lambda name: changed(name, sorted_by_score))),
    "no grades": (
        "grades",
        changed("heldout.jsonl", lambda row: {name: value for name, value in row.items() if name != "grades"}),
    ),
    "nothing relevant": ("grades", changed("heldout.jsonl", lambda row: {**row, "grades": [0] * len(row["grades"])})),
    "check the sign of its scores": ("teacher", both(lambda name: changed(name, turned))),
    "candidates over the limit": (
        "cut texts",
        lambda at: [f"teacher.models=[{write_teacher(at / 'encoder')}]", "teacher.max_tokens=2"],
    ),
    "few steps": ("steps", lambda _: ["training.epochs=1"]),
}


@pytest.mark.parametrize("fault", [None, *QUERIES])
def test_a_fault_of_a_ranker_is_found(fault: str | None, tmp_path: Path) -> None:
    write_lists(tmp_path / "train.jsonl", count=24)
    write_lists(tmp_path / "heldout.jsonl", count=31, seed=5)
    heldout = changed("heldout.jsonl", lambda row: {**row, "query": f"{row['query']} held"})
    heldout(tmp_path)
    check, plant = QUERIES[fault] if fault else (None, lambda _: [])
    findings = found(tmp_path, LISTS, plant(tmp_path))
    assert no_worse_than_notes(findings) if check is None else check in [one.check for one in findings], findings


def test_steps_of_lists_that_were_not_read_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(tmp_path / "train.jsonl", count=24)
    write_lists(tmp_path / "heldout.jsonl", count=31, seed=5)
    words = ["training.epochs=4"]  # 24 steps
    assert "steps" not in [one.check for one in found(tmp_path, LISTS, words)]
    monkeypatch.setattr(lists, "_READ", 8)
    assert "steps" not in [one.check for one in found(tmp_path, LISTS, words)]
    assert "steps" in [one.check for one in found(tmp_path, LISTS, [*words, "data.limit=8"])]
